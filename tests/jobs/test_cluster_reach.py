"""What is said of a scheduler that cannot be reached."""

import asyncio
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from certificates import HAS_OPENSSL
from dask_cluster import DaskCluster, eventually, free_port, make_certificates
from ortoscope_service.config import ClusterConfig
from ortoscope_service.jobs.cluster import ClusterExecutor
from ortoscope_service.jobs.cluster_reach import TroubleLog, trouble_with
from ortoscope_service.jobs.cluster_security import security_of


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not HAS_OPENSSL:
        pytest.skip("openssl is not installed")
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def scheduler(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    """A scheduler without workers, with TLS."""
    cluster = DaskCluster(certificates, tmp_path_factory.mktemp("cluster") / "log")
    try:
        cluster.start_scheduler()
        eventually(lambda: trouble(cluster.config) == "")
        yield cluster
    finally:
        cluster.stop()


def trouble(config: ClusterConfig) -> str:
    return asyncio.run(trouble_with(config, security_of(config)))


def stranger(scheduler: DaskCluster, certificates: Path) -> ClusterConfig:
    """Who has a certificate of another authority."""
    certificate, key = (certificates / f"stranger{end}" for end in (".crt", ".key"))
    return replace(scheduler.config, certificate=certificate, private_key=key)


def test_each_kind_of_trouble_has_its_own_words(scheduler: DaskCluster, certificates: Path) -> None:
    good, free = scheduler.config, free_port()
    plain = ClusterConfig(good.address.replace("tls", "tcp"))
    distrusting = replace(good, authority=certificates / "stranger-authority.crt")
    assert trouble(good) == ""
    assert trouble(replace(good, address=f"tls://127.0.0.1:{free}")) == "nobody listens there"
    assert "refused the certificate" in trouble(stranger(scheduler, certificates))
    assert "not one of the authority" in trouble(distrusting)
    assert "may want tls://" in trouble(plain)


def test_a_scheduler_that_hangs_does_not_answer(scheduler: DaskCluster) -> None:
    scheduler.pause_scheduler()
    try:
        assert trouble(scheduler.config) == "it does not answer"
    finally:
        scheduler.resume_scheduler()


def test_an_executor_tells_what_its_tasks_wait_for(scheduler: DaskCluster, certificates: Path) -> None:
    with ClusterExecutor(scheduler.config) as idle, ClusterExecutor(stranger(scheduler, certificates)) as refused:
        eventually(lambda: idle.obstacle() == "waiting for workers of the cluster")
        eventually(lambda: "scheduler of the cluster: it refused the certificate" in refused.obstacle())


def test_workers_that_the_scheduler_refuses_say_why_and_are_not_started(
    scheduler: DaskCluster, certificates: Path, tmp_path: Path
) -> None:
    refused = DaskCluster(certificates, tmp_path / "log")
    refused.config = stranger(scheduler, certificates)
    try:
        refused.start_workers(2)
        eventually(lambda: "it refused the certificate that it was shown" in refused.log())
        time.sleep(0.5)
        assert "distributed" not in refused.log()
        assert refused.stop_workers() == 0
    finally:
        refused.stop()


def test_trouble_is_logged_when_it_begins_and_when_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    log = TroubleLog("tls://host:1")
    with caplog.at_level(logging.WARNING):
        for text in ("nobody listens there", "nobody listens there", "it does not answer", "", "it does not answer"):
            log.tell(text)
    said = [record.getMessage().rpartition(": ")[2] for record in caplog.records]
    assert said == ["nobody listens there", "it does not answer", "it does not answer"]
