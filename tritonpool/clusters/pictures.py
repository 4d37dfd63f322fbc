"""Molecules with their clusters in colour, as one HTML page that needs nothing else."""

from __future__ import annotations

import colorsys
import html
from collections.abc import Iterable

import numpy as np
from rdkit import Chem
from rdkit.Chem.Draw import rdMolDraw2D
from torch import Tensor

from tritonpool.clusters.measures import as_array

__all__ = ["Picture", "colour", "draw_clusters", "page"]

SIZE = (360, 260)
PALEST = 0.35  # of a colour is left to a share of nearly 0
GOLDEN = 0.6180339887  # successive hues are far from each other, and none comes twice
STYLE = """
body { font-family: sans-serif; margin: 1.5em }
figure { display: inline-block; width: 360px; margin: 0.5em; vertical-align: top }
figcaption { font-size: small; overflow-wrap: anywhere }
"""


class Picture(str):
    """The text of an SVG picture, which a notebook shows."""

    __slots__ = ()

    def _repr_svg_(self) -> str:
        return str(self)


def colour(cluster: int, share: float = 1.0) -> tuple[float, float, float]:
    """Red, green and blue from 0 to 1; the smaller the share, the closer to white."""
    full = colorsys.hls_to_rgb(cluster * GOLDEN % 1, 0.65, 0.8)
    strength = PALEST + (1 - PALEST) * share
    return tuple(1 + strength * (part - 1) for part in full)


def draw_clusters(mol: Chem.Mol, shares: np.ndarray | Tensor) -> Picture:
    """An SVG picture of a molecule, each atom and each bond inside a cluster in its colour, paler
    where the share is small.

    Parameters
    ----------
    mol : rdkit.Chem.Mol
        the molecule, with ``n`` atoms
    shares : numpy.ndarray | torch.Tensor
        of each atom in each cluster, ``n x c``, as ``assignments(bmg)`` of a DiffPool message
        passing gives them

    Raises
    ------
    ValueError
        if there is not a row for each atom
    """
    if shares.ndim != 2 or len(shares) != mol.GetNumAtoms():
        raise ValueError(
            f"shares must have a row for each of the {mol.GetNumAtoms()} atoms, got shape "
            f"{tuple(shares.shape)}"
        )
    shares = as_array(shares)
    main, largest = shares.argmax(1).tolist(), shares.max(1).tolist()
    atoms = {i: colour(p, share) for i, (p, share) in enumerate(zip(main, largest, strict=True))}
    bonds = {}
    for bond in mol.GetBonds():
        a, b = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        if main[a] == main[b]:
            bonds[bond.GetIdx()] = colour(main[a], min(largest[a], largest[b]))
    drawer = rdMolDraw2D.MolDraw2DSVG(*SIZE)
    drawer.drawOptions().highlightRadius = 0.4
    rdMolDraw2D.PrepareAndDrawMolecule(
        drawer,
        mol,
        highlightAtoms=list(atoms),
        highlightAtomColors=atoms,
        highlightBonds=list(bonds),
        highlightBondColors=bonds,
    )
    drawer.FinishDrawing()
    text = drawer.GetDrawingText()
    return Picture(text[text.index("<svg") :])


def page(title: str, pictures: Iterable[tuple[str, str]]) -> str:
    """An HTML page of captions and SVG pictures."""
    figures = "".join(
        f"<figure>{picture}<figcaption>{html.escape(caption)}</figcaption></figure>\n"
        for caption, picture in pictures
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{html.escape(title)}'
        f"</title>\n<style>{STYLE}</style>\n<h1>{html.escape(title)}</h1>\n"
        f"<p>An atom has the colour of the cluster with its largest share, paler where that is "
        f"small; so has a bond between two atoms of one cluster.</p>\n{figures}</html>\n"
    )
