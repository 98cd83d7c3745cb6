"""Cohorts x methods x prompts -> tables.

    engine       runs any study: store (its table on disk)  identity (of a case)  workers (processes, clusters)
    protocol     how a simulated user clicks, and what is scored
    methods      networks, threshold rules and factories by name
    evaluation   organs and lesions under clicks (Tables 2 and 3 of the supplement)
    lesions      scattered lesions, zero-shot (Table 5);  interactive: autoPET's protocol
    quantities   every organ and lesion of a cohort in numbers
    summaries, agreement, plots, report, supplement   means with intervals; tables compared; pages; published tables
"""
