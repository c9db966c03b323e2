"""The table of a surrogate in real towns.

Imports nothing heavy: the control plane writes it, too.
"""

from typing import Any

from jobs.surrogate.config import OUTPUTS


def towns_table(rows: list[dict[str, Any]]) -> str:
    """Markdown of what jobs.surrogate.towns.judge_towns tells; champion's errors where there is
    one."""
    compared = any("champion" in row for row in rows)
    lines = [
        "| town | designs | mean load | error | of the mean | "
        + ("champion's | " if compared else "")
        + "covered | least covered | half-width | |",
        "|---|---:|---:|---:|---:|" + ("---:|" if compared else "") + "---:|---|---:|---|",
    ]
    for row in rows:
        told = row["candidate"]
        worst = min(OUTPUTS, key=lambda name: told[f"coverage_{name}"])
        old = f"{row['champion']['error']:.1%} | " if "champion" in row else ""
        remark = "trained on" if row["learnt"] else "unlike the training" if told["outside"] else ""
        lines.append(
            f"| {row['town']} | {row['designs']} | {row['mean']:.1f} | {told['error_kwh']:.2f} | "
            f"{told['error']:.1%} | {old or ('– | ' if compared else '')}{told['coverage']:.1%} | "
            f"{worst.replace('_', ' ')} {told[f'coverage_{worst}']:.0%} | "
            f"{told['half_width']:.1%} | {remark} |"
        )
    covered = [row["candidate"]["coverage"] for row in rows if not row["learnt"]]
    lines += [
        "",
        "Loads and errors are in kWh/m2 a year, half-widths are shares of the mean load.",
    ]
    if covered:
        lines[-1] += (
            f" Over the towns that it was not trained on {sum(covered) / len(covered):.1%} of the "
            f"values are covered, {min(covered):.1%} in the worst."
        )
    return "\n".join(lines)
