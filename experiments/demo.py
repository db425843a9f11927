"""A winning ticket of a spiking network in a few minutes on two cores: `make demo`.

IMP with late rewinding on real 8x8 digits, then a random mask of the ticket's layer-wise counts, trained from
the same weights in the same way: if the structure that IMP found did not matter, the two would do equally
well. The table that it prints is in docs/results.md. For other settings: `snnlth imp --help`.
"""

from snnlth_jax import configs
from snnlth_jax.search import imp


def main() -> None:
    config = configs.resolve(configs.ImpConfig(workdir="runs/demo", controls=("random",)))
    result = imp.search(config, configs.load_dataset(config))
    dense, ticket, control = result["rounds"][0], result["rounds"][-1], result["controls"][-1]
    print(
        f"{100 * ticket['sparsity']:.1f} % of the weights are gone. The ticket reaches "
        f"{100 * ticket['final_test_accuracy']:.2f} % (dense: {100 * dense['final_test_accuracy']:.2f} %), "
        f"a random mask of the same layer-wise counts {100 * control['final_test_accuracy']:.2f} %."
    )
    print(f"Look into it: .venv/bin/snnlth ticket inspect {config.workdir}/{ticket['ticket']}")


if __name__ == "__main__":
    main()
