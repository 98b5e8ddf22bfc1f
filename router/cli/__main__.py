"""`python -m router.cli`: the same as the command `glowl`, for children that must not depend on the PATH."""

from router.cli.main import main

if __name__ == "__main__":
    main()
