"""A winning ticket of a spiking network in a few minutes on two cores: `make demo`.

IMP with late rewinding on real 8x8 digits, then a random mask of the ticket's layer-wise counts, trained from
the same weights in the same way: if the structure that IMP found did not matter, the two would do equally
well. The table that it prints is in docs/results.md. Further flags go to `snnlth imp`.
"""

import json
import sys

from snnlth_jax import checkpoints
from snnlth_jax.cli import main

WORKDIR = "runs/demo"


def conclude() -> str:
    result = json.loads(checkpoints.paths(WORKDIR).result.read_text())
    dense, ticket, control = result["rounds"][0], result["rounds"][-1], result["controls"][-1]
    return (
        f"{100 * ticket['sparsity']:.1f} % of the weights are gone. The ticket reaches "
        f"{100 * ticket['final_test_accuracy']:.2f} % (dense: {100 * dense['final_test_accuracy']:.2f} %), "
        f"a random mask of the same counts {100 * control['final_test_accuracy']:.2f} %.\n"
        f"The ticket: {WORKDIR}/{ticket['ticket']}; look into it with: snnlth ticket inspect PATH"
    )


if __name__ == "__main__":
    status = main(["imp", "--workdir", WORKDIR, "--random-control", "last", *sys.argv[1:]])
    if status == 0:
        print(conclude())
    sys.exit(status)
