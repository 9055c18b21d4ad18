"""Names of centre crops and what each shows: a share of the shortest side.

The file exists because data/framing.py makes them and interop/preprocess.py says them in other
libraries' words.
"""

CENTERS = {"center": 1.0, "center_floor": 1.0, "center_875": 0.875}
