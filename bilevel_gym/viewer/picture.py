"""The page of a session: the picture of the game, and the panel beside it."""

from __future__ import annotations

from dataclasses import replace

from gymnasium import spaces

from ..envs.base import View, shown
from ..rendering import StepCurve, grid_layout, new_surface
from ..rendering.canvas import THEME, Colour, pygame
from ..rendering.grid import draw_cursor
from .climbing import PARTS, part
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
        draw_summary(page, layout.summary, [part(session.response, name) for name in PARTS])
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
    shown_answer = replace(response, hyper_gradient=part(response, session.shown))
    return View(title, session.x, shown_answer, status=_leader_status(session))


def text(session: Session) -> list[tuple[str, Colour]]:
    """Return the paragraphs of the panel, with their colours."""
    stuck = [(f"Stuck here, because {session.stuck}.", THEME.accent)] if session.stuck else []
    if session.lesson is not None:
        return [*session.lesson.paragraphs, *stuck]
    if stuck:
        return stuck
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
        (f"{hand} Hold G to climb along the hyper-gradient, D along its direct part.", THEME.ink),
        ("H lists all keys.", THEME.muted),
    ]


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
    response, best = session.response, session.game.best_known
    status = [
        ("objective", shown(response.objective)),
        ("best known", "none" if best is None else shown(best.value)),
        ("lower value", shown(response.lower_value)),
        ("|projected gradient|", f"{session.gradient_norms[-1]:.3g}"),
        ("step", str(len(session.objectives) - 1)),
    ]
    if session.cells is not None:
        status.insert(4, ("brush", f"±{session.brush:.2f}"))
    if session.shown != "hyper-gradient":
        status.append(("triangles", f"the {session.shown}"))
    return tuple((name, value.replace("-", "−")) for name, value in status)


def _follower_status(session: Session, episode: Episode) -> tuple[tuple[str, str], ...]:
    return (
        ("objective", shown(session.response.objective)),
        ("lower value", shown(session.response.lower_value)),
        ("your return", shown(episode.lower_returns[-1])),
        ("leader's return", shown(episode.upper_returns[-1])),
        ("step", str(len(episode.lower_returns) - 1)),
    )
