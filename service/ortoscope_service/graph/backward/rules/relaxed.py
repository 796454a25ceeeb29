"""The rules of relaxations, by operator."""

from collections.abc import Mapping
from types import MappingProxyType

from ortoscope_service.graph.backward.registry import Rule

REDIRECTED_RELU: Mapping[str, Rule] = MappingProxyType({})
GUIDED: Mapping[str, Rule] = MappingProxyType({})
DECONVOLUTION: Mapping[str, Rule] = MappingProxyType({})
AVERAGED_MAX_POOL: Mapping[str, Rule] = MappingProxyType({})
L2_MAX_POOL: Mapping[str, Rule] = MappingProxyType({})
