"""Pictures of the chapter on capacity, one per experiment."""

from typing import TYPE_CHECKING

import numpy as np

from gemma_bench.experiments.fine_tune_memorization import FineTuneRecord
from gemma_bench.experiments.layer_capacity import LayerRecord
from gemma_bench.experiments.quantized_memory import QuantizedRecord
from gemma_bench.report.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def quantized_picture(record: QuantizedRecord) -> "Figure":
    """Draw what rounding keeps over bits: a line per fill ratio for the fitted rounding, dashed for the plain one."""
    figure, (axes,) = new_figure(1)
    for fill in dict.fromkeys(record.fill_bits_per_parameter):
        for rounding, line in (("fitted", "-"), ("min max", "--")):
            bits = sorted(set(record.bits))
            kept = [100 * float(np.median(record.kept(few, rounding, fill))) for few in bits]
            axes[0].plot(bits, kept, line, marker="o", label=f"{fill:g} bits of data a parameter, {rounding}")
    axes[0].set(
        xlabel=f"bits per weight (+ {32 / record.group_size:g} for scale and bias)", ylabel="memorised bits kept, %"
    )
    axes[0].legend(fontsize="small")
    figure.suptitle(f"What rounding leaves: {record.model_id}, {record.parameters_count:,} parameters")
    return figure


def layer_picture(record: LayerRecord) -> "Figure":
    """Draw marginal capacity by block, a dot per seed, and the map of noise sensitivity, coloured within each part."""
    figure, (axes,) = new_figure(2)
    rows = np.array(record.marginals())
    for row in rows:
        axes[0].plot(range(record.layers_count), row, "o", color="tab:blue", alpha=0.5)
    axes[0].plot(range(record.layers_count), rows.mean(axis=0), "k_", markersize=24)
    axes[0].set(xlabel="block", ylabel="marginal bits per parameter of the block", xticks=range(record.layers_count))
    axes[0].set_ylim(bottom=0)
    fills, parts = (sorted(set(record.noise_fill_bits_per_parameter)), list(dict.fromkeys(record.noise_parts)))
    lost = np.reshape(record.noise_lost_bits_per_parameter, (len(fills), len(parts))).T
    highest = np.maximum(lost.max(axis=1, keepdims=True), 1e-12)
    axes[1].imshow(lost / highest, aspect="auto", cmap="viridis", vmin=0, vmax=1)
    for (part, fill), bits in np.ndenumerate(lost):
        shade = "white" if bits < 0.6 * highest[part, 0] else "black"
        axes[1].text(fill, part, f"{bits:.2g}", ha="center", va="center", color=shade, fontsize="small")
    axes[1].set(xlabel="bits of data per parameter", xticks=range(len(fills)), yticks=range(len(parts)))
    axes[1].set_xticklabels([f"{fill:g}" for fill in fills])
    axes[1].set_yticklabels(parts)
    axes[1].set_title(f"bits lost per parameter at {100 * record.noise_ratio:g} % noise", fontsize="medium")
    figure.suptitle(f"Capacity across layers: {record.model_id}, {record.parameters_count:,} parameters")
    return figure


def fine_tune_picture(record: FineTuneRecord) -> "Figure":
    """Draw bits learnt by heart and bits generalised, over data size and over the course of each fine-tune."""
    figure, (axes,) = new_figure(2)
    sizes = sorted(set(record.sequences_counts))
    names = {"memorised_bits_per_sequence": "by heart", "generalised_bits_per_sequence": "generalised"}
    for name, label in names.items():
        axes[0].plot(sizes, [float(np.median(record.column(name, size))) for size in sizes], "o-", label=label)
    axes[0].axvline(_full_at(record), color="grey", linestyle=":", label="data = capacity")
    axes[0].set(xscale="log", xlabel="sequences", ylabel="bits per sequence")
    axes[0].axhline(0, color="black", linewidth=0.5)
    axes[0].legend(fontsize="small")
    for place, size in enumerate(record.sequences_counts):
        if record.seeds[place] == record.seeds[0]:
            visits, color = record.readings_visits[place], f"C{sizes.index(size)}"
            axes[1].plot(
                visits, record.readings_memorised_bits_per_sequence[place], "-", color=color, label=f"{size:,}"
            )
            axes[1].plot(visits, record.readings_generalised_bits_per_sequence[place], "--", color=color)
    axes[1].axhline(0, color="black", linewidth=0.5)
    axes[1].set(xlabel="visits per sequence", title="solid: by heart, dashed: generalised")
    axes[1].legend(fontsize="small", title="sequences")
    how = "all weights" if record.rank is None else f"LoRA of rank {record.rank}"
    figure.suptitle(f"Fine-tuning {record.model}, {how}: {record.trained_parameters_count:,} trained parameters")
    return figure


def _full_at(record: FineTuneRecord) -> float:
    """Return the number of sequences whose data are as many bits as were ever memorised."""
    return record.capacity_bits * record.sequences_counts[-1] / record.data_bits[-1]
