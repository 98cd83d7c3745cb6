"""Cohorts x methods x prompts -> tables.

    engine       runs any study: cases x methods, resumed, in processes or on a cluster
    store        the table of a study on disk
    identity     what a case is, by content
    workers      the same function on many jobs, in other processes
    methods      networks, threshold rules and factories by name
    protocol     how a simulated user clicks, and what is scored

    evaluation   organs and lesions under clicks (Tables 2 and 3 of the supplement)
    lesions      scattered lesions, zero-shot (Table 5), with lesion_clicks and tumour_scan
    interactive  autoPET's interactive protocol
    quantities   every organ and lesion of a cohort in numbers
    conversion   DICOM studies to AutoPET's or nnU-Net's layout
    commands     these five as subcommands of `seganypet`

    summaries    means over patients with intervals
    agreement    two tables compared: Bland-Altman, SUVmax of organs among cases
    plots        DSC against clicks, Bland-Altman
    report       one page for each case
    supplement   the tables that the article's supplement reports
"""
