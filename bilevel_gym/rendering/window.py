"""The one window: `render_mode="human"`, the viewer and the demos show their pictures in it."""

from __future__ import annotations

import os
import warnings
from collections import deque
from typing import ClassVar

from ..core.checks import check_positive
from .canvas import pygame

MAX_PENDING_EVENTS = 1000

# Drivers on which SDL falls back silently, and which show nothing.
UNSEEN_DRIVERS = ("dummy", "offscreen")


class Window:
    """The one place that opens a window: `render_mode="human"` and the demos use it.

    pygame shows one window per process; a second `Window` takes over the first one's. `show` waits
    for `fps` frames per second.
    """

    _current: ClassVar[Window | None] = None
    """The instance whose frames the one window shows."""

    def __init__(self, title: str, fps: int) -> None:
        """Remember what to open; nothing is opened before the first `show`."""
        check_positive("fps", fps)
        self.title = title
        self.fps = int(fps)
        self._clock: pygame.time.Clock | None = None
        self._closed_by_user = False
        self._pending: deque[pygame.event.Event] = deque(maxlen=MAX_PENDING_EVENTS)

    @property
    def is_open(self) -> bool:
        """Whether the window is on the screen."""
        if Window._current is not self:
            return False
        # Someone else may have closed the display, as `pygame.quit()` does.
        return pygame.display.get_surface() is not None

    @property
    def closed_by_user(self) -> bool:
        """Whether the user has closed the window; `show` then does nothing."""
        return self._closed_by_user

    def show(self, surface: pygame.Surface) -> None:
        """Show `surface` in a window of its size and wait until the next frame is due."""
        if self._closed_by_user:
            return
        size = surface.get_size()
        if not self.is_open or pygame.display.get_surface().get_size() != size:
            pygame.display.init()
            self._warn_if_invisible(pygame.display.get_driver())
            pygame.display.set_mode(size)
            pygame.display.set_caption(self.title)
            Window._current = self
        pygame.display.get_surface().blit(surface, (0, 0))
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
        events = list(self._pending)
        self._pending.clear()
        return events

    def close(self) -> None:
        """Close the window; does nothing if it is not open."""
        if self.is_open:
            pygame.display.quit()
            Window._current = None

    def _warn_if_invisible(self, driver: str) -> None:
        # Whoever chose the driver knows; SDL falls back on these without a word.
        if driver in UNSEEN_DRIVERS and "SDL_VIDEODRIVER" not in os.environ:
            warnings.warn(
                f"no display was found, the window is drawn where nobody sees it (SDL driver "
                f'{driver!r}); render_mode="rgb_array" needs no display',
                stacklevel=4,
            )

    def _collect_events(self) -> None:
        events = pygame.event.get()
        self._pending.extend(events)
        if any(event.type == pygame.QUIT for event in events):
            self._closed_by_user = True
            self.close()
