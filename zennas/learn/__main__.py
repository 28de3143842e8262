"""The command `learn`: python -m zennas.learn --data DATA, the same as: zennas learn --data DATA."""

from zennas import commands

main = commands.command("zennas.learn")

if __name__ == "__main__":
    main()
