"""A scan in numbers, without any network.

    volume           Volume(data, affine, unit): NIfTI in and out, voxel <-> mm
    dicom, suv       PET and CT series -> Volume; the SUV factor from the headers, or a refusal that names the tag
    resampling, registration   one volume on the grid of another; a CT laid over a PET
    threshold_rules  "41% SUVmax", "SUV>=4": the rules and their names
    quantification, percist    SUVmax, SUVmean, SUVpeak, MTV, TLG; PERCIST's reference and threshold
    physiology       organs that are hot in health, taken out of a mask
    views, plots     how a grid is looked at; MIP, slices, PET over CT
"""
