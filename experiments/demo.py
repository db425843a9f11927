"""A ticket of a spiking network in a few minutes on two cores: `make demo`.

IMP with late rewinding on real 8x8 digits, then a random mask of the ticket's layer-wise counts, trained from
the same weights in the same way: if the structure of the ticket did not matter, both would reach the same
accuracy. Its table is in docs/results.md. For other settings: `snnlth imp --help`.
"""

from snnlth_jax import configs
from snnlth_jax.run.results import Result, Row, convert
from snnlth_jax.search import imp


def main() -> None:
    config = configs.resolve(configs.ImpConfig(workdir="runs/demo", controls=("random",)))
    result = convert(imp.search(config, configs.load_dataset(config)), Result)
    dense, ticket, control = result.rounds[0], result.rounds[-1], result.controls[-1]
    print(
        f"{100 * ticket.sparsity:.1f} % of the weights are gone. The ticket reaches {_percent(ticket)} "
        f"(dense: {_percent(dense)}), a random mask of the same layer-wise counts {_percent(control)}."
    )
    print(f"Look into it: .venv/bin/snnlth ticket inspect {config.workdir}/{ticket.ticket}")


def _percent(row: Row) -> str:
    return f"{100 * (row.final_test_accuracy or 0.0):.2f} %"


if __name__ == "__main__":
    main()
