"""The commands `ortoscope operations …`."""

import sys
from collections.abc import Collection
from typing import Annotated

import typer

from ortoscope import cleaning
from ortoscope.cleaning import END_STATES, EndState
from ortoscope.cli.arguments import GIVE_UP, FolderOption, GiveUpOption, OperationArgument, read_duration
from ortoscope.cli.operations_view import drawn, drawn_cleaning
from ortoscope.cli.results import finish
from ortoscope.cli.session import FAILED, JsonOption, Options, TargetOption, session
from ortoscope.cli.watching import watch
from ortoscope.messages import to_json
from ortoscope.operation_table import list_request, operation_table
from ortoscope.patience import Patience
from ortoscope.rpcs import all_pages

operations_app = typer.Typer(no_args_is_help=True)

_LinesOption = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one JSON object, an operation, on a line of its own for every change.",
        rich_help_panel="Connection and output",
    ),
]


@operations_app.callback()
def operations_root(context: typer.Context, target: TargetOption = None, as_json: JsonOption = False) -> None:
    """Look after the server's long-running operations.

    Operations outlive the command that started them and restarts of the server:
    whoever knows the name can wait for the result, from any machine.

    ortoscope operations list
    ortoscope operations watch
    ortoscope operations wait 3f2a9c1d -o out
    ortoscope operations clean --older-than 7d --dry-run
    """
    context.obj = Options(target, as_json)


@operations_app.command("list")
def list_operations(
    context: typer.Context,
    pending: Annotated[bool, typer.Option("--pending", help="Only those that wait or run.")] = False,
    target: TargetOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the operations: how far they are, how long they will still take, how old they are.

    On a terminal, names are shortened to what other commands need to know one; in
    a pipe they are whole.

    ortoscope operations list --pending
    ortoscope operations list --json
    """
    with session(context, target, as_json) as run:
        response = all_pages(run.scope.rpcs.list_operations, list_request(done=False if pending else None))
        if run.output.as_json:
            run.output.json(response)
            return
        table = operation_table(run.scope.rpcs, response)
        if run.output.is_terminal:
            run.output.draw(drawn(table))
        else:
            run.output.table(table)


@operations_app.command("watch")
def watch_operations(
    context: typer.Context,
    give_up_after: GiveUpOption = GIVE_UP,
    target: TargetOption = None,
    as_json: _LinesOption = False,
) -> None:
    """Watch all operations that wait or run, live, until Ctrl-C; that cancels none of them.

    A table on a terminal, a line for every change elsewhere. A server that
    restarts is waited for.

    ortoscope operations watch
    ortoscope operations watch > operations.log
    """
    seconds = read_duration(give_up_after, "--give-up-after")
    with session(context, target, as_json, give_up_after=seconds) as run:
        watch(run, Patience(run.scope.target, seconds))


@operations_app.command("show")
def show_operation(
    context: typer.Context, name: OperationArgument, target: TargetOption = None, as_json: JsonOption = False
) -> None:
    """Show how far an operation is, how long it will still take, and why it failed if it did.

    ortoscope operations show 3f2a9c1d
    """
    with session(context, target, as_json) as run:
        operation = run.scope.operations.get(name)
        if run.output.as_json:
            run.output.json(operation.proto)
        run.output.text(operation.describe())


@operations_app.command("wait")
def wait_for_operation(
    context: typer.Context,
    name: OperationArgument,
    output: FolderOption = None,
    give_up_after: GiveUpOption = GIVE_UP,
    target: TargetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Wait for an operation and write its result as the command that started it would have.

    It works from any machine that reaches the server, however often, also after
    the operation has ended. Ctrl-C ends the waiting; the operation goes on. A
    server that restarts goes on with it, and is waited for.

    ortoscope operations wait operations/3f2a… -o out
    ortoscope --target gpu-server:50051 operations wait 3f2a9c1d -o out
    ortoscope operations wait 3f2a9c1d -o out --give-up-after 12h
    """
    seconds = read_duration(give_up_after, "--give-up-after")
    with session(context, target, as_json, give_up_after=seconds) as run:
        patience = Patience(run.scope.target, seconds)
        operation = patience.ask(lambda: run.scope.operations.get(name), run.output.outage)
        finish(run, operation, output, wait=True, own=False, give_up_after=seconds)


@operations_app.command("cancel")
def cancel_operation(
    context: typer.Context, name: OperationArgument, target: TargetOption = None, as_json: JsonOption = False
) -> None:
    """Ask the server to cancel an operation; one that has ended stays as it is.

    ortoscope operations cancel 3f2a9c1d
    """
    with session(context, target, as_json) as run:
        operation = run.scope.operations.get(name)
        had_ended = operation.done
        operation.cancel()
        operation.refresh()
        if run.output.as_json:
            run.output.json(operation.proto)
        run.output.text(f"{operation.name}: {f'had ended: {operation.state}' if had_ended else 'asked to cancel'}")


@operations_app.command("delete")
def delete_operation(
    context: typer.Context, name: OperationArgument, target: TargetOption = None, as_json: JsonOption = False
) -> None:
    """Remove the record of an operation that has ended; its result is kept.

    ortoscope operations delete 3f2a9c1d
    """
    with session(context, target, as_json) as run:
        operation = run.scope.operations.get(name)
        operation.delete()
        if run.output.as_json:
            run.output.json({})
        run.output.text(f"{operation.name}: deleted")


@operations_app.command("clean")
def clean_operations(
    context: typer.Context,
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="TIME", help="How long ago they must have ended: 90m, 12h, 7d, 4w.")
    ],
    state: Annotated[
        list[str] | None,
        typer.Option("--state", help=f"Only those that ended so: {', '.join(END_STATES)}; may be given several times."),
    ] = None,
    results: Annotated[bool, typer.Option("--results", help="Delete what they made, too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be deleted.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")] = False,
    target: TargetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove the records of operations that ended long ago; their results are kept unless you say --results.

    It tells what goes, asks, and deletes. Results that a younger operation has as
    well are kept in any case.

    ortoscope operations clean --older-than 7d
    ortoscope operations clean --older-than 12h --state failed --yes
    ortoscope operations clean --older-than 4w --results --dry-run
    """
    seconds, states = read_duration(older_than, "--older-than"), _end_states(state or ())
    with session(context, target, as_json) as run:
        output = run.output
        found = cleaning.ended_before(run.scope.rpcs, seconds, states=states, results=results)
        output.text(f"{found.title} to delete" if found else f"No operation ended more than {older_than} ago.")
        if found and output.is_terminal:
            output.draw(drawn_cleaning(found))
        elif found:
            output.table(found)
        wanted = bool(found) and not dry_run
        if wanted and not yes:
            wanted = _confirmed(f"Delete {found.title}?")
        if wanted:
            cleaning.delete(run.scope.rpcs, found)
        if output.as_json:
            entries = [
                {
                    "operation": to_json(cleaned.operation.proto),
                    "result": cleaned.result,
                    "result_deleted": cleaned.result_deleted,
                }
                for cleaned in found
            ]
            output.json({"dry_run": dry_run, "operations": entries})
        elif wanted:
            output.text(f"{found.title} deleted")
        elif found and not dry_run:
            output.note("Nothing was deleted.")
            raise typer.Exit(FAILED)


def _end_states(names: Collection[str]) -> tuple[EndState, ...]:
    unknown = sorted(set(names) - set(END_STATES))
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is no state in which operations end: {', '.join(END_STATES)}.")
    return tuple(state for state in END_STATES if state in names) or END_STATES


def _confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise typer.BadParameter("Nobody can be asked here: say --yes to delete, or --dry-run to see what would go.")
    return typer.confirm(question, err=True)
