"""The trust of an exported network: its own where lower precision makes it another network, the source's where not."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from convcraft.evaluation.outputs import Outputs
from convcraft.evaluation.strangeness import Strangeness
from convcraft.evaluation.trust import TENSORS, TRUST, Trust, fit_trust, trust_files, trust_from_files


def trust_fitted_again(saved: Mapping[str, bytes], outputs: Outputs, targets: NDArray[np.int64]) -> dict[str, bytes]:
    """Temperature, sets and the threshold of strangeness from what the exported network says of held-out images.

    Which score of strangeness is used, and the train images that distances are measured from, stay the source's.

    Args:
        saved: the source's files. outputs, targets: of N images that the source did not learn from.
    """
    source = read_trust(saved)
    strangeness = None
    if source.rule.unknown is not None:
        scores = source.unknown_scores(outputs)
        assert scores is not None  # the rule has a threshold
        strangeness = Strangeness(source.rule.unknown.score, source.scorer, scores, source.aurocs)
    return trust_files(
        fit_trust(
            outputs.logits,
            targets,
            loss=source.temperature.loss,
            weights_sha256=source.weights_sha256,
            preprocess_sha256=source.preprocess_sha256,
            strangeness=strangeness,
        )
    )


def read_trust(saved: Mapping[str, bytes]) -> Trust:
    return trust_from_files(json.loads(saved[TRUST]), saved.get(TENSORS), TRUST)
