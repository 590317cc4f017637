from benchmarks.scaling_coverage import main


def test_a_table_a_world_with_each_way_of_resampling(capsys):
    main(["--sets", "1", "--resamples", "10"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    names = [row.split("|")[1].strip() for row in rows]
    ways = ["resampled", "cells then seeds", "runs", "cell residuals", "seeds within cells"]
    assert names == ways + ways
