"""The command `align`: python -m zennas.align --data PHOTOGRAPHS --out DIR, the same as: zennas align ..."""

from zennas import commands

main = commands.command("zennas.align")

if __name__ == "__main__":
    main()
