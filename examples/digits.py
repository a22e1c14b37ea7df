"""Which support vector machine reads handwritten digits best? A hyper-parameter sweep on real data.

    pip install 'slurmfutures[examples]'
    python examples/digits.py                   the embedded default: processes of this machine
    python examples/digits.py slurm             job arrays; scikit-learn must be installed there too
    python examples/digits.py slurm cpu         the same in the partition "cpu"

The data are the 1,797 images of 8 x 8 pixels that come with scikit-learn.
"""

import math
import sys
from itertools import product

from slurmfutures import SlurmExecutor

COSTS = [0.1, 1.0, 10.0, 100.0]
GAMMAS = [1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2]
FOLDS = 5


def accuracy(cost: float, gamma: float) -> float:
    """Return the share of digits that are read right, in cross-validation."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.svm import SVC

    images, digits = load_digits(return_X_y=True)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    return float(cross_val_score(SVC(C=cost, gamma=gamma), images, digits, cv=folds).mean())


def main(scheduler: str = "local", partition: str | None = None) -> None:
    grid = list(product(COSTS, GAMMAS))
    with SlurmExecutor(scheduler=scheduler, partition=partition, time="00:10:00") as executor:
        # Importing scikit-learn takes longer than a call: those of a row of the table share a process.
        results = executor.map(accuracy, *zip(*grid, strict=True), chunksize=len(GAMMAS))
        scores = dict(zip(grid, results, strict=True))
    print("accuracy".rjust(12), *(f"gamma={gamma:g}".rjust(12) for gamma in GAMMAS))
    for cost in COSTS:
        print(f"C={cost:g}".rjust(12), *(f"{scores[cost, gamma]:12.4f}" for gamma in GAMMAS))
    best = max(scores, key=scores.__getitem__)
    print(f"best: C={best[0]:g}, gamma={best[1]:g}: {scores[best]:.2%} of the digits are read right")
    here = accuracy(*best)
    same = math.isclose(here, scores[best], abs_tol=1e-9)
    print(f"the same point without the executor: {here:.2%}, {'the same' if same else 'not the same'}")
    if not same:
        sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
