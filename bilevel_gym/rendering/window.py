"""The one window: `render_mode="human"`, the viewer and the demos show their pictures in it."""

from __future__ import annotations

import os
import warnings
from collections import deque
from typing import ClassVar

from ..core.checks import check_positive
from .canvas import pygame

MAX_PENDING_EVENTS = 1000

DESKTOP = 0.92
"""Share of the desktop's width and height that a window takes at most; larger pictures shrink."""

PLACES: tuple[str, ...] = ("pos", "rel")
"""What events say in pixels."""

UNSEEN_DRIVERS = ("dummy", "offscreen")
"""Drivers on which SDL falls back silently, and which show nothing."""


def unseen_driver() -> str | None:
    """Return the driver, or what SDL says, where a window would not be seen; None if it would."""
    try:
        pygame.display.init()
        driver = pygame.display.get_driver()
    except pygame.error as error:
        return str(error)
    return driver if driver in UNSEEN_DRIVERS else None


class Window:
    """The one place that opens a window: `render_mode="human"` and the demos use it.

    pygame shows one window per process; a second `Window` takes over the first one's. `show` waits
    for `fps` frames per second.

    Attributes:
        closed_by_user: Whether the user has closed the window; `show` then does nothing.
    """

    _current: ClassVar[Window | None] = None
    """The instance whose frames the one window shows."""

    def __init__(self, title: str, fps: int) -> None:
        """Remember what to open; nothing is opened before the first `show`."""
        self.title = title
        self.fps = int(check_positive("fps", fps))
        self._clock: pygame.time.Clock | None = None
        self.closed_by_user = False
        self._shown, self._scale = (0, 0), 1.0
        self._pending: deque[pygame.event.Event] = deque(maxlen=MAX_PENDING_EVENTS)

    @property
    def is_open(self) -> bool:
        """Whether the window is on the screen."""
        if Window._current is not self:
            return False
        # Someone else may have closed the display, as `pygame.quit()` does.
        return pygame.display.get_surface() is not None

    def show(self, surface: pygame.Surface) -> None:
        """Show `surface` in a window of its size and wait until the next frame is due."""
        if self.closed_by_user:
            return
        screen = pygame.display.get_surface() if self.is_open else None
        if screen is None or surface.get_size() != self._shown:
            driver = unseen_driver()
            # Whoever chose the driver knows; SDL falls back on these without a word.
            if driver is not None and "SDL_VIDEODRIVER" not in os.environ:
                warnings.warn(
                    "no display was found, the window is drawn where nobody sees it (SDL driver "
                    f'{driver!r}); render_mode="rgb_array" needs no display',
                    stacklevel=3,
                )
            self._shown = width, height = surface.get_size()
            room = pygame.display.get_desktop_sizes()[0]  # `unseen_driver` has opened the display
            self._scale = min(1.0, DESKTOP * room[0] / width, DESKTOP * room[1] / height)
            size = round(self._scale * width), round(self._scale * height)
            screen = pygame.display.set_mode(size)
            pygame.display.set_caption(self.title)
            Window._current = self
        if self._scale < 1.0:
            surface = pygame.transform.smoothscale(surface, screen.get_size())
        screen.blit(surface, (0, 0))
        pygame.display.flip()
        # Reading the queue is what tells the system that the window is alive.
        self._collect_events()
        if self._clock is None:
            self._clock = pygame.time.Clock()
        self._clock.tick(self.fps)

    def events(self) -> list[pygame.event.Event]:
        """Return the events since the last call, oldest first; none if the window never opened."""
        if self.is_open:
            self._collect_events()
        events = [self._placed(event) for event in self._pending]
        self._pending.clear()
        return events

    def _placed(self, event: pygame.event.Event) -> pygame.event.Event:
        """Return an event whose places are those of the surface that is shown."""
        places = {
            name: tuple(round(place / self._scale) for place in event.dict[name])
            for name in PLACES
            if name in event.dict
        }
        if self._scale == 1.0 or not places:
            return event
        return pygame.event.Event(event.type, {**event.dict, **places})

    def close(self) -> None:
        """Close the window; does nothing if it is not open."""
        if self.is_open:
            pygame.display.quit()
            Window._current = None

    def _collect_events(self) -> None:
        events = pygame.event.get()
        self._pending.extend(events)
        if any(event.type == pygame.QUIT for event in events):
            self.closed_by_user = True
            self.close()
