"""`python -m side_ray.cli`."""

from side_ray.cli.app import app

if __name__ == "__main__":
    app()
