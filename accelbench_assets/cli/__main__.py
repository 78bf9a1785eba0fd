"""``python -m accelbench_assets.cli`` is ``accelbench``."""

from accelbench_assets.cli.main import main

if __name__ == "__main__":
    main()
