"""``python -m exoflow`` is the command ``exoflow``."""

from exoflow.cli.main import app

if __name__ == "__main__":
    app()
