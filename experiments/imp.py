"""IMP with late rewinding, on one device. The same as `snnlth imp`, with the same flags.

    paper    Table 1 and Fig. 5: VGG16, CIFAR-10, T = 5, 15 rounds of 300 epochs: 91.81 % at 98.13 % sparsity
    command  python experiments/imp.py --dataset cifar10 --data-dir ~/tensorflow_datasets --workdir runs/imp
    hours    52 on one RTX 2080 Ti (paper, Table 1)

Run it again after any interruption, and it resumes.
"""

import sys

from snnlth_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["imp", *sys.argv[1:]]))
