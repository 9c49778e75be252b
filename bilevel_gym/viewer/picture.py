"""The picture of a session."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..envs.base import View
from ..rendering import GridScene, StepCurve
from .session import Episode, Session


def scene(session: Session) -> GridScene:
    """Return what is to be drawn, the help apart."""
    response, episode = session.response, session.episode
    changes: dict[str, Any]
    if episode is None:
        hint = "paint with the mouse or hold G"
        status, changes = _leader_status(session), {"cursor": session.cursor}
        curves = (
            StepCurve("objective", session.objectives),
            StepCurve("|hyper-gradient|", session.gradient_norms, log_scale=True),
        )
    else:
        hint = "walk with the arrow keys"
        status, changes = _follower_status(session, episode), {"gradient": None}
        curves = (
            StepCurve("your return", episode.lower_returns),
            StepCurve("leader's return", episode.upper_returns),
        )
    said = session.message or (episode.ended if episode else "") or f"{hint}; H for help"
    if session.climbing and not session.message:
        said = "climbing along the hyper-gradient"
    view = View(
        title=f"You are the {session.seat}: {said}",
        upper_params=session.x,
        response=response,
        state=None if episode is None else episode.state,
        status=status,
    )
    return replace(session.game.scene(view), curves=curves, **changes)


def _leader_status(session: Session) -> tuple[tuple[str, str], ...]:
    response, best = session.response, session.game.best_known
    index = None if session.cursor is None else session.game.state_of(session.cursor)
    return (
        ("objective", _number(response.objective)),
        ("best known", "none" if best is None else _number(best.value)),
        ("lower value", _number(response.lower_value)),
        ("|hyper-gradient|", f"{session.gradient_norms[-1]:.3g}"),
        ("brush", f"±{session.brush:.2f}"),
        ("x under the mouse", "none" if index is None else _number(session.x[index])),
        ("step", str(len(session.objectives) - 1)),
    )


def _follower_status(session: Session, episode: Episode) -> tuple[tuple[str, str], ...]:
    return (
        ("objective", _number(session.response.objective)),
        ("lower value", _number(session.response.lower_value)),
        ("your return", _number(episode.lower_returns[-1])),
        ("leader's return", _number(episode.upper_returns[-1])),
        ("step", str(len(episode.lower_returns) - 1)),
    )


def _number(value: float) -> str:
    return f"{value:.4f}".replace("-", "−")
