"""What a bundle is, and how it is searched: everything needed to encode, search and score, in one folder. No torch.

bundle/   CURRENT             one line: the catalogue version in use
          model/              immutable: encoder, towers as ONNX, weights, config, metrics, golden queries, card
          catalogue/000001/   immutable: which segments make this version of the catalogue, and for which model
          segments/<sha>/     immutable: item vectors, ids, columns and words; shared by versions
          indexes/<sha>/      what finds near vectors of a segment faster than exact search, where `index` built it
          staging/            what a refresh that was broken off had embedded
"""

from twotower.bundle.found import Found
from twotower.bundle.growth import Change
from twotower.bundle.layout import Bundle, describe, open_bundle
from twotower.bundle.lineage import Version, compact, rollback, versions
from twotower.bundle.loading import build_index, load, verify
from twotower.bundle.publication import Published, publish, withdraw
from twotower.bundle.remote import Remote
from twotower.bundle.retriever import Retriever

__all__ = [
    "Bundle",
    "Change",
    "Found",
    "Published",
    "Remote",
    "Retriever",
    "Version",
    "build_index",
    "compact",
    "describe",
    "load",
    "open_bundle",
    "publish",
    "rollback",
    "verify",
    "versions",
    "withdraw",
]
