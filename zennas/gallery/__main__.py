"""The command `gallery`: python -m zennas.gallery FOLDER --query PICTURE, the same as: zennas gallery ..."""

from zennas import commands

main = commands.command("zennas.gallery")

if __name__ == "__main__":
    main()
