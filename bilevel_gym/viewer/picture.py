"""The page of a session: the picture of the game, and the panel beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gymnasium import spaces

from ..envs.base import View, shown
from ..model.responses import EpisodicResponse
from ..rendering import StepCurve, grid_layout, new_surface
from ..rendering.canvas import THEME, Colour, pygame
from ..rendering.grid import draw_cursor
from .climbing import PARTS, part, trust
from .panel import draw_knobs, draw_lines, draw_panel_curves, draw_summary
from .session import Episode, Session


def draw_page(session: Session) -> pygame.Surface:
    """Draw the page, without the help."""
    layout = session.layout
    page = new_surface(layout.size)
    picture = session.game.draw(view(session))
    if session.cells is not None and session.cursor is not None and session.seat == "leader":
        draw_cursor(picture, grid_layout(session.cells.shape), session.cursor)
    if layout.scale < 1.0:
        picture = pygame.transform.smoothscale_by(picture, layout.scale)
        page.fill(picture.get_at((0, 0)))  # scaling darkens the paper a little
    page.blit(picture, (0, 0))
    draw_lines(page, layout.text, text(session))
    if session.seat == "leader":
        answer = session.response
        if answer is not None:
            draw_summary(page, layout.summary, [part(answer, name) for name in PARTS])
    draw_knobs(page, layout.rows, session.rows, sliders=bool(session.knobs))
    draw_panel_curves(page, layout.curves, curves(session))
    return page


def view(session: Session) -> View:
    """Return what the picture of the game shows."""
    game, response, episode = session.game, session.response, session.episode
    said = game.headline(session.seat).partition("\n")[0]
    if session.message:
        said = f"You are the {session.seat}: {session.message}"
    elif episode is not None and episode.ended:
        said = f"You are the follower: {episode.ended}"
    elif session.climb is not None:
        said = f"You are the leader: climbing along the {session.climb.way}"
    else:
        said = f"You are the {session.seat}. {said}"
    title = game.headline(session.seat, said)
    if episode is not None:
        return replace(game.view(), title=title, status=_follower_status(session, episode))
    if response is None:
        return View(title, session.x)
    gradient = None if response.hyper_gradient is None else part(response, session.shown)
    shown_answer = replace(response, hyper_gradient=gradient)
    # While the follower answers, the last answer is shown, with its own x.
    return View(title, response.upper_params, shown_answer, status=_leader_status(session))


def text(session: Session) -> list[tuple[str, Colour]]:
    """Return the paragraphs of the panel, with their colours."""
    stuck = [(f"Stuck here, because {session.stuck}.", THEME.accent)] if session.stuck else []
    if session.lesson is not None:
        return [*session.lesson.paragraphs, *stuck]
    waiting = [(session.waiting, THEME.accent)] if session.waiting else []
    if session.seat == "leader":
        waiting += [(said, THEME.ink) for said in estimate_in_words(session.response)]
    if stuck:
        return [*stuck, *waiting]
    if session.episode is not None:
        said = "Press Space for a move of its best answer."
        if session.game.moves:
            said = f"Move with the arrow keys. {said}"
        elif isinstance(session.game.lower_space, spaces.Discrete):
            said = f"Choose actions by their number. {said}"
        return [(said, THEME.ink)]
    hand = "Paint the map with the mouse." if session.cells is not None else ""
    if not (hand or session.knobs):
        hand = f"x has {session.x.size} entries, too many for sliders."
    if session.knobs:
        hand = f"{hand} Drag the sliders; with Shift, all together.".strip()
    return [
        *waiting,
        (f"{hand} Hold G to climb along the hyper-gradient, D along its direct part.", THEME.ink),
        ("H lists all keys.", THEME.muted),
    ]


def estimate_in_words(answer: Any) -> list[str]:
    """Return how good the estimates of an answer are, nothing of one without errors."""
    if answer is None or answer.objective_se is None:
        return []
    said = [f"F is estimated: {shown(answer.objective)} ± {shown(answer.objective_se)}."]
    reason = getattr(answer, "trust_reason", None)
    cosine = answer.hyper_gradient_cosine
    if reason is not None:
        said.append(f"Trust in dF/dx: {trust(answer):.2f} of 1. {reason}")
    elif cosine is not None:
        said.append(f"Expected cosine of dF/dx to the true one: {cosine:.2f}.")
    return [each.replace("-", "−") for each in said]


def curves(session: Session) -> tuple[StepCurve, ...]:
    """Return the curves below the sliders."""
    if session.episode is not None:
        return (
            StepCurve("your return", session.episode.lower_returns),
            StepCurve("leader's return", session.episode.upper_returns),
        )
    return (
        StepCurve("objective", session.objectives),
        StepCurve("|projected gradient|", session.gradient_norms, log_scale=True),
    )


def _leader_status(session: Session) -> tuple[tuple[str, str], ...]:
    best = session.game.best_known
    status = [
        *_answer_status(session),
        ("|projected gradient|", f"{session.gradient_norms[-1]:.3g}"),
        ("step", str(len(session.objectives) - 1)),
    ]
    status.insert(1, ("best known", "none" if best is None else shown(best.value)))
    if session.cells is not None:
        status.insert(4, ("brush", f"±{session.brush:.2f}"))
    if session.shown != "hyper-gradient":
        status.append(("triangles", f"the {session.shown}"))
    return tuple((name, value.replace("-", "−")) for name, value in status)


def _follower_status(session: Session, episode: Episode) -> tuple[tuple[str, str], ...]:
    return (
        *_answer_status(session),
        ("your return", shown(episode.lower_returns[-1])),
        ("leader's return", shown(episode.upper_returns[-1])),
        ("step", str(len(episode.lower_returns) - 1)),
    )


def _answer_status(session: Session) -> tuple[tuple[str, str], ...]:
    """Return what an answer is worth to both."""
    answer = session.response
    status = [("objective", shown(answer.objective))]
    if isinstance(answer, EpisodicResponse):
        status.append(("follower's return", shown(answer.summary[1])))
    elif answer.lower_value is not None:
        status.append(("lower value", shown(answer.lower_value)))
    return tuple(status)
