"""The command `clean`: python -m zennas.clean --data D --embeddings-from M --out DIR, the same as: zennas clean ..."""

from zennas import commands

main = commands.command("zennas.clean")

if __name__ == "__main__":
    main()
