"""The command `tune`: python -m zennas.tune --track T --data D --embeddings-from M, the same as: zennas tune ..."""

from zennas import commands

main = commands.command("zennas.tune")

if __name__ == "__main__":
    main()
