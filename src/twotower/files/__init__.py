"""The only package that writes.

Everything appears whole or not at all: a file is written beside its place and renamed into it, a folder is built under a passing
name and renamed. Nothing is ever pickled: text is JSON, arrays are `.npy`, weights safetensors, tables Arrow.
"""

from twotower.files.arrays import (
    ArrayWriter,
    check_parquet,
    read_array,
    read_table,
    read_tensors,
    tensor_metadata,
    tensor_places,
    write_array,
    write_parquet,
    write_table,
    write_tensors,
)
from twotower.files.folders import LOCK, claim_folder, empty_folder, held, make_folder, new_folder, remove_folder, rename_folder, taking
from twotower.files.single import (
    append_line,
    copy_file,
    json_text,
    mend_lines,
    read_json,
    read_lines,
    remove_file,
    replacing,
    sha256_of,
    write_bytes,
    write_json,
    write_list,
    write_text,
)

__all__ = [
    "LOCK",
    "ArrayWriter",
    "append_line",
    "check_parquet",
    "claim_folder",
    "copy_file",
    "empty_folder",
    "held",
    "json_text",
    "make_folder",
    "mend_lines",
    "new_folder",
    "read_array",
    "read_json",
    "read_lines",
    "read_table",
    "read_tensors",
    "remove_file",
    "remove_folder",
    "rename_folder",
    "replacing",
    "sha256_of",
    "taking",
    "tensor_metadata",
    "tensor_places",
    "write_array",
    "write_bytes",
    "write_json",
    "write_list",
    "write_parquet",
    "write_table",
    "write_tensors",
    "write_text",
]
