"""weightgen doctor"""

from collections.abc import Mapping
from typing import Any

from .options import FormatOption, QuietOption
from .output import Output, facts


def doctor(format: FormatOption = "text", quiet: QuietOption = False) -> None:
    """Show versions, devices, caches, what is missing and what fits this machine. Nothing is written or fetched.

    Example: weightgen doctor
    """
    output = Output(format, quiet)
    from weightgen.runs.doctor import diagnosis

    state = diagnosis()
    output.result(state, _text(state))


def _text(state: Mapping[str, Any]) -> str:
    device, backbone = state["device"], state["default_backbone"]
    accelerators = [
        one["name"] + ("" if one["memory_gib"] is None else f" ({one['memory_gib']:.0f} GiB)")
        for one in device["accelerators"]
    ]
    lines = {
        "weightgen": state["weightgen"],
        "python": f"{state['python']} on {state['platform']}",
        "packages": [f"{name} {number or '(not installed)'}" for name, number in state["packages"].items()],
        "processor": f"{device['cores']} cores, {device['threads']} threads of torch",
        "memory": f"{device['available_gib']:.1f} of {device['memory_gib']:.1f} GiB available",
        "accelerators": accelerators or "none",
        **{
            f"{one['what']} cache": f"{one['folder']}, {one['gib']:.2f} GiB"
            + ("" if one["writable"] else ", not writable")
            for one in state["caches"]
        },
        "hub": "offline, for HF_HUB_OFFLINE is set"
        if state["offline"]
        else "asked where something is not in its cache",
        "default backbone": f"{backbone['name']}, {'at hand' if backbone['ready'] else backbone['remedy']}",
        **{f"extra {one['name']}": f"{', '.join(one['missing'])} missing: {one['install']}" for one in state["extras"]},
    }
    fits = [
        f"{'fits' if one['fits'] else 'does not fit'} into memory: {one['what']} ({one['needs_gib']} GiB)"
        for one in state["fits"]
    ]
    return "\n".join([facts(lines), *fits])
