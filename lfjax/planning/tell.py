"""What was measured, in words."""

from lfjax.planning.chips import GIB, Chip
from lfjax.planning.measure import Measured


def told(m: Measured, chip: Chip) -> list[str]:
    """Lines for the terminal."""
    lines = [f"{m.stage}, {m.program}: {m.about}"]
    needed = f"{_gib(m.needed_bytes)} of {_gib(m.hbm_bytes)} GiB a chip"
    if m.fits:
        lines.append(f"  fits: {needed}")
    else:
        lines += [
            f"  DOES NOT FIT: {needed}, {_gib(m.needed_bytes - m.hbm_bytes)} too much",
            f"  what would help: {'; '.join(m.help)}",
        ]
    parts = ", ".join(f"{name} {_gib(size)}" for name, size in (m.parts or {}).items())
    if m.argument_bytes:
        lines.append(f"  GiB: {parts}; temporaries {_gib(m.temporary_bytes)}")
    else:
        lines.append(f"  GiB: {parts}")
    if m.resident:
        others = ", ".join(f"{name} {_gib(size)}" for name, size in m.resident.items())
        lines.append(f"  of which resident besides: {others}; peak {_gib(m.peak_bytes)}")
    if m.replicated is not None:
        lines.append(f"  replicated parameters: {m.replicated:.2%}")
    if m.seconds is None:
        return [*lines, f"  compiled for {m.compile_seconds:.0f} s"]
    ratio = m.executed_flops / m.model_flops
    lines.append(
        f"  TFLOPs a chip: {m.executed_flops / 1e12:.3g} executed, {m.model_flops / 1e12:.3g} of "
        f"the model ({ratio:.2f} times)"
    )
    for kind, what in (m.collectives or {}).items():
        lines.append(f"  {kind}: {what['calls']:,.0f} times, {_gib(what['bytes'])} GiB")
    if m.unknown_loops:
        lines.append(f"  counted once: {m.unknown_loops} loop(s) of unknown length")
    limits = ", ".join(f"{what} {1e3 * s:.3g}" for what, s in m.seconds.items())
    rate = m.tokens / m.step_seconds
    lines += [
        f"  roofline, ms: {limits}",
        f"  at the best {1e3 * m.step_seconds:.3g} ms, {rate:,.0f} tokens/s a chip, "
        f"{m.model_flops / chip.flops / m.step_seconds:.0%} of the peak",
        f"  compiled in {m.compile_seconds:.0f} s",
    ]
    return lines


def _gib(size: float | int) -> str:
    return f"{size / GIB:.2f}"
