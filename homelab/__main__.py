"""The command `homelab`, and `python -m homelab`."""

import os

_INTERRUPTED = 130


def _quit(*_: object) -> None:
    os.write(2, b"Interrupted.\n")
    os._exit(_INTERRUPTED)


def main() -> None:
    """Run the command line. Ctrl-C ends it also while its modules are imported, without a traceback."""
    try:
        import signal  # imports enum, which takes some milliseconds

        signal.signal(signal.SIGINT, _quit)
    except KeyboardInterrupt:
        _quit()
    from homelab.cli import main as run

    run()


if __name__ == "__main__":
    main()
