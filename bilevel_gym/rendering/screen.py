"""Where viewers and demos show their pictures: a window, or a film where there is no display."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from .canvas import frame, pygame
from .film import Film
from .window import Window, unseen_driver


class NoDisplayError(RuntimeError):
    """There is no display to open a window on."""


class Screen:
    """A window to watch, or a film to keep; the pictures are the same.

    Example:
        >>> from bilevel_gym.rendering import Screen, new_surface
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     with Screen("two pages", headless=Path(folder) / "film.gif") as screen:
        ...         screen.show(new_surface((64, 32)))
        ...         screen.show(new_surface((64, 32)))
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['film.gif']
    """

    def __init__(self, title: str, *, headless: Path | None = None, fps: int = 30) -> None:
        """Find out at once, before any work is done, whether pictures can be shown.

        `headless` is the GIF to write instead of opening a window of `fps` pictures per second.

        Raises:
            NoDisplayError: If a window is wanted and there is no display.
            ValueError: If the film cannot be written where it is wanted.
        """
        self._path = headless
        self._film = Film()
        self._window = Window(title, fps)
        self._surface: pygame.Surface | None = None
        if headless is None:
            driver = unseen_driver()
            if driver is not None:
                raise NoDisplayError(
                    f"no display was found (SDL says {driver!r}); `--headless OUT.gif` writes an "
                    "animation instead of opening a window"
                )
        elif headless.suffix.lower() != ".gif":
            raise ValueError(f"`headless` must name a .gif file, got {str(headless)!r}")
        elif not headless.absolute().parent.is_dir():
            raise ValueError(f"the folder of `headless` must exist, got {str(headless)!r}")

    def __enter__(self) -> Self:
        """Return the screen itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Write the film, also of a run that broke off with Ctrl-C, or close the window."""
        self._window.close()
        if self._path is None or self._surface is None:
            return
        if kind is None or issubclass(kind, KeyboardInterrupt):
            self._film.add(frame(self._surface))  # a film ends on its last picture
            self._film.save(self._path)

    @property
    def closed(self) -> bool:
        """Whether the user has closed the window; `show` then does nothing."""
        return self._window.closed_by_user

    def show(self, surface: pygame.Surface, *, frames: int = 2) -> None:
        """Show a picture, for so many frames of a film."""
        self._surface = surface
        if self._path is None:
            self._window.show(surface)
            return
        self._film.add(frame(surface), frames)

    def events(self) -> list[pygame.event.Event]:
        """Return what the user did since the last call; nothing in a film."""
        return self._window.events()

    def linger(self) -> None:
        """Keep the last picture in the window until the user closes it; a film just ends."""
        while self._path is None and self._surface is not None and not self.closed:
            self._window.show(self._surface)
