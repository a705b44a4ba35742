from .synthfaces import FACTOR_NAMES, SynthFaces, base_face, factor_sweep, render_faces, sample_factors, sweep_factors
