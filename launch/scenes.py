"""`hornet scenes`, as a file of this checkout."""

if __name__ == "__main__":
    import _checkout  # noqa: F401 - first: it makes way for the packages whose names the files here bear

    from hornet.cli import run

    run("scenes")
