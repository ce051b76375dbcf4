"""Two-dimensional drawings of molecules, by RDKit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctrlgen.extras import require

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["flat", "svg"]


def flat(mol: Mol | None) -> Mol:
    """A molecule ready to be drawn: no hydrogens but those that matter, no positions.

    What RDKit cannot draw as a graph, and None, are left empty.
    """
    chem = require("rdkit.Chem", "molecules")
    draw = require("rdkit.Chem.Draw.rdMolDraw2D", "molecules")
    bare = chem.Mol() if mol is None else chem.RemoveHs(mol, sanitize=False)
    bare.RemoveAllConformers()
    bare.UpdatePropertyCache(strict=False)
    return draw.PrepareMolForDrawing(bare, kekulize=False)


def svg(mol: Mol, width: int = 280, height: int = 210) -> str:
    """The drawing of a molecule as a small SVG document on no background."""
    draw = require("rdkit.Chem.Draw.rdMolDraw2D", "molecules")
    canvas = draw.MolDraw2DSVG(width, height, -1, -1, True)  # letters as text, not as outlines
    options = canvas.drawOptions()
    options.clearBackground, options.padding, options.fixedBondLength = False, 0.06, 34
    canvas.DrawMolecule(flat(mol))
    canvas.FinishDrawing()
    text: str = canvas.GetDrawingText()
    start, end = text.index("<svg"), text.index("<!-- END OF HEADER -->")
    return " ".join((text[start:end] + text[end + len("<!-- END OF HEADER -->") :]).split())
