"""Print, as JSON, how many values each column of a parquet file has, and its bytes there.

`files.py` runs this as a script: pyarrow ends the whole process where the description of a column contradicts itself.
"""

import json
import sys
from collections import defaultdict

import pyarrow.parquet

if __name__ == "__main__":
    about = pyarrow.parquet.read_metadata(sys.argv[1])
    sizes: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for g in range(about.num_row_groups):
        for c in range(about.num_columns):
            part = about.row_group(g).column(c)
            size = sizes[part.path_in_schema.partition(".")[0]]
            size[:] = size[0] + part.num_values, size[1] + part.total_compressed_size
    print(json.dumps(sizes))
