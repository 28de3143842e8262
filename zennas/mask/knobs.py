"""How far masks vary where nobody says: the defaults of render.vary, which say themselves what each of them is.

They stand apart, so that `zennas mask --help` names them without a library of pictures.
"""

KNOBS = {"angle_deg": 4.0, "size": 0.05, "height": 0.015, "blur_px": 0.3, "exposure": 0.12}
