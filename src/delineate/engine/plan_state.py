"""What a plan needs to go on: its modules and optimisers, to a checkpoint and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from delineate.methods._plan import Plan


def state_of(plan: Plan) -> dict[str, Any]:
    """``modules`` and ``optimisers`` of every stage, by name."""
    return {
        "modules": {
            stage.name: {name: module.state_dict() for name, module in stage.modules.items()}
            for stage in plan.stages
        },
        "optimisers": {
            stage.name: {name: o.state_dict() for name, o in stage.optimisers.items()}
            for stage in plan.stages
        },
    }


def give(plan: Plan, state: Mapping[str, Any]) -> None:
    """Give a plan what ``state_of`` returned, of a run on this or on another device."""
    for stage in plan.stages:
        for name, module in stage.modules.items():
            module.load_state_dict(state["modules"][stage.name][name])
        for name, optimiser in stage.optimisers.items():
            saved = state["optimisers"][stage.name][name]
            for group, own in zip(saved["param_groups"], optimiser.param_groups, strict=True):
                if "fused" in own:  # a matter of the device
                    group["fused"] = own["fused"]
            optimiser.load_state_dict(saved)
