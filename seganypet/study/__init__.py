"""Cohorts x methods x prompts -> tables.

    definition   what a study is: columns, settings, and how a case is measured
    engine       runs any study: cases x methods, resumed, in processes or on a cluster
    store        the table of a study on disk
    identity     what a case is, by content
    workers      the same function on many jobs, in other processes
    progress     how far a run is, target by target
    methods      networks, threshold rules and factories by name, and where they compute
    automatic    methods that nobody clicks
    protocol     how a simulated user clicks, and what is scored
    saved_masks  masks that a study keeps

    evaluation   organs and lesions under clicks (Tables 2 and 3 of the supplement)
    lesions      scattered lesions, zero-shot (Table 5), with lesion_clicks and tumour_scan
    interactive  autoPET's interactive protocols, IV and V
    quantities   every organ and lesion of a cohort in numbers
    conversion   DICOM studies to AutoPET's or nnU-Net's layout
    commands, file_commands   these five, and `table`, as subcommands of `seganypet`

    summaries    means over patients with intervals
    statistics   models compared, paired over patients
    paper_tables   results as the supplement prints them, as Markdown, LaTeX or CSV
    agreement    two tables compared: Bland-Altman, SUVmax of organs among cases
    plots        DSC against clicks, boxes, some cases in pictures, Bland-Altman
    report       one page for each case
    supplement   the tables that the article's supplement reports
"""
