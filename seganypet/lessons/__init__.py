"""What the lessons in `notebooks/` stand on, so that their cells hold what is to be learned.

checks, exercises_*   `sap.check("1.suv", answer)`: answers judged, hints in stages
explorer, pictures_*  sliders above a picture
parameters            names and types of a notebook's parameters
hands, hunt           clicks that stand in where nobody clicks; masks with mistakes to find
"""
