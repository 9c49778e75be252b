"""What is said of the answers of a leader's seat while they are made."""

from __future__ import annotations

from ..model.responses import EpisodicResponse, Response

__all__ = ["answer_in_words"]


def answer_in_words(response: Response, samples: int) -> str:
    """Return what an answer is worth to both players, in a few words.

    Args:
        response: The answer.
        samples: Environment steps used so far.
    """
    said = [f"objective {response.objective:.6g}"]
    lower = response.lower_value
    if isinstance(response, EpisodicResponse):
        _, lower, _ = response.summary
    if lower is not None:
        said.append(f"follower {lower:.4g}")
    if samples:
        said.append(f"{samples} environment steps")
    return ", ".join(said)
