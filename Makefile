# make demo     set up, run the quickstart headless, leave its results in out/
# make test     set up, run everything that CI runs: style, direction of imports, types, tests
# make coverage the tests once more, and which lines of the package they leave out (a quarter slower)
# make lab      set up, open the student edition of the lessons in JupyterLab; make lab ITK=1: and let itkwidgets ask the
#               internet for its viewer
# make app      set up, serve the click page to this machine's browsers (PORT=8866)
# make docs     API pages from the docstrings, without internet, into out/docs
# make lessons  run every lesson, and write pages to read without Python into out/lessons (5 to 10 minutes)
# make notebooks  each notebook from its script, and the student edition; make student: the latter only; what somebody
#               changed or ran in them stays
# make bench    speed and memory; make bench-clicks: from mouse to mask, in Chromium; make bench-all: these and
#               the smaller ones, each of a part
# make accuracy DSC on phantoms and, where REAL_DATA names them, real scans
# make tumours  scattered lesions on phantoms, real sarcomas where REAL_DATA names them (15 minutes)
# make train    tiny from tiny-base, second edition (three quarters of an hour on one core); make train-base: tiny-base from
#               its second edition (2 hours); make train-2d: tiny-2d from nothing (1 hour); make train-organs: the pair that
#               never sees a lesion (2 hours); make train-locator: what finds organs without a prompt (half an hour).
#               Earlier editions come from the history of this repository, so these need a clone
# make ablation the supplement's Table 4 with the embedded network (hours: its arm flip floods)
# make networks which of its parts the network needs (15 minutes)
# make fuzz     12,000 spoilt files of every kind through all that reads them, for at most MINUTES (15)
# make endurance  memory of large scans, many cases and many clicks; 200 killed writers, 20 resumed trainings (20 minutes)
# make clean
# All need only Python 3.11 with venv; a second run reuses .venv.

PYTHON ?= $(shell python3.11 -c 'print("python3.11")' 2>/dev/null || echo python3)
BIN := .venv/bin
READY := .venv/.ready
LAB := .venv/.lab
PROCESSES ?= 2
MINUTES ?= 15
PORT ?= 8866

.PHONY: demo test coverage fuzz endurance lab app docs notebooks student lessons bench bench-clicks bench-all accuracy tumours train train-base train-2d train-organs train-locator ablation networks clean

REAL_DATA ?= ../shared/data

$(READY): pyproject.toml constraints.txt
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[notebooks,test]'
	touch $@

demo: $(READY)
	$(BIN)/python tools/run_notebook.py notebooks/00_quickstart.py out
	$(BIN)/jupyter nbconvert --log-level ERROR --to html out/00_quickstart.ipynb
	cp notebooks/glossary.md notebooks/how_pet_works.md out/
	@echo 'The executed notebook, its HTML, the masks and the tables:'
	@ls -1 out/*

# One thread a process: two processes with two threads each would fight for two cores.
test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PROCESSES) --dist loadgroup

# Apart from `make test`, because counting lines costs a quarter of its time.
coverage: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PROCESSES) --dist loadgroup -m 'not slow' --cov --cov-report=term

$(LAB): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[itk]'
	touch $@

# tools/lab says which extensions stay off, because they ask the internet: news, and itkwidgets' own, unless ITK=1.
# Of two folders the first one counts.
lab: $(LAB)
	JUPYTER_CONFIG_PATH=$(if $(ITK),$(CURDIR)/tools/lab/itk:)$(CURDIR)/tools/lab \
		$(BIN)/jupyter lab --notebook-dir . notebooks/student/00_quickstart.ipynb

app: $(READY)
	$(BIN)/seganypet app notebooks/app.ipynb --port $(PORT)

docs: $(READY)
	$(BIN)/python tools/api_pages.py out/docs

# The scripts are the source. What a person changed or ran is left alone, here and in the student edition.
notebooks: $(READY) student
	$(BIN)/python tools/notebook_twins.py

# Exercises without their solutions.
student: $(READY)
	$(BIN)/python tools/student_edition.py

lessons: $(READY)
	$(BIN)/python tools/lesson_pages.py out/lessons

bench: $(READY)
	$(BIN)/python -m benchmarks.run
	$(BIN)/python -m benchmarks.train_speed

bench-clicks: $(READY)
	$(BIN)/python -m benchmarks.click_latency

# Each prints or writes what its docstring says; real_scan runs where the scan is.
bench-all: bench bench-clicks
	$(BIN)/python -m benchmarks.case_speed
	$(BIN)/python -m benchmarks.cohort_speed
	$(BIN)/python -m benchmarks.dicom_speed
	$(BIN)/python -m benchmarks.evaluate_overhead
	$(BIN)/python -m benchmarks.study_cost
	$(BIN)/python -m benchmarks.threads
	$(BIN)/python -m benchmarks.mask_files_speed
	$(BIN)/python -m benchmarks.phantoms
	$(BIN)/python -m benchmarks.propose $(if $(wildcard $(REAL_DATA)/acrin042/PET_AC),--real-data $(REAL_DATA))
	$(BIN)/python -m benchmarks.quantify_speed
	$(BIN)/python -m benchmarks.pilots tiny tiny-base --processes 2 $(if $(wildcard $(REAL_DATA)/sts),--real-data $(REAL_DATA))
	$(BIN)/python -m benchmarks.sessions $(if $(wildcard $(REAL_DATA)/sts),--real-data $(REAL_DATA))
	$(BIN)/python -m benchmarks.slicewise_speed
	$(BIN)/python -m benchmarks.picture
	$(if $(wildcard $(REAL_DATA)/acrin042/PET_AC),$(BIN)/python -m benchmarks.real_scan $(REAL_DATA)/acrin042/PET_AC)

fuzz: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python tools/fuzz.py --count 12000 --minutes $(MINUTES)

endurance: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python tools/endurance.py

accuracy: $(READY)
	$(BIN)/python -m benchmarks.accuracy tiny $(if $(wildcard $(REAL_DATA)/sts),--real-data $(REAL_DATA))
	$(BIN)/python -m benchmarks.accuracy tiny-2d $(if $(wildcard $(REAL_DATA)/sts),--real-data $(REAL_DATA))
	$(BIN)/python -m benchmarks.accuracy tiny-base $(if $(wildcard $(REAL_DATA)/sts),--real-data $(REAL_DATA))
	$(BIN)/python -m benchmarks.accuracy tiny-organs $(if $(wildcard $(REAL_DATA)/sts),--real-data $(REAL_DATA))
	$(BIN)/python -m benchmarks.accuracy tiny-2d-organs $(if $(wildcard $(REAL_DATA)/sts),--real-data $(REAL_DATA))

tumours: $(READY)
	$(BIN)/python -m benchmarks.tumours $(if $(wildcard $(REAL_DATA)/sts),--real-data $(REAL_DATA))

# An edition that was replaced: its name, the commit that has it, and the file to write.
edition = mkdir -p runs && git show $(2):seganypet/weights/$(1).safetensors > $(3)

# Two runs of one recipe, and their average: pilot M of benchmarks/pilots.md says why.
train: $(READY)
	$(call edition,tiny-base,9d79f2e,runs/tiny-base-second.safetensors)
	$(BIN)/seganypet train seganypet/configs/tiny.yaml --output runs --set init=runs/tiny-base-second.safetensors
	$(BIN)/seganypet train seganypet/configs/tiny.yaml --output runs --set init=runs/tiny-base-second.safetensors \
	    --set name=tiny-deep --set deep=0.4 --set readings=false --set precision=32-true --set epochs=9 \
	    --set validation.every=9
	$(BIN)/python tools/average_weights.py seganypet/weights/tiny.safetensors \
	    runs/tiny.safetensors=0.6 runs/tiny-deep.safetensors=0.4
	cp runs/tiny.csv seganypet/weights/

train-2d: $(READY)
	$(BIN)/python tools/train_slices.py tiny-2d --output runs
	cp runs/tiny-2d.safetensors runs/tiny-2d.csv seganypet/weights/

train-organs: $(READY)
	$(BIN)/seganypet train seganypet/configs/tiny-organs.yaml --output runs
	$(BIN)/python tools/train_slices.py tiny-2d-organs --output runs
	cp runs/tiny-organs.safetensors runs/tiny-organs.csv seganypet/weights/
	cp runs/tiny-2d-organs.safetensors runs/tiny-2d-organs.csv seganypet/weights/

train-locator: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python tools/train_locator.py --output runs
	cp runs/locator.safetensors runs/locator.csv seganypet/weights/

# Two runs, one after the other, averaged with what they began from: pilots O and P of benchmarks/pilots.md.
train-base: $(READY)
	$(call edition,tiny-base,9d79f2e,runs/tiny-base-second.safetensors)
	$(BIN)/seganypet train seganypet/configs/tiny-base.yaml --output runs --set init=runs/tiny-base-second.safetensors \
	    --set name=tiny-base-further --set epochs=30 --set ema=0.99 --set seed=21 --set data.first_seed=24000 \
	    --set validation.every=10
	$(BIN)/seganypet train seganypet/configs/tiny-base.yaml --output runs --set init=runs/tiny-base-further.safetensors
	$(BIN)/python tools/average_weights.py seganypet/weights/tiny-base.safetensors \
	    runs/tiny-base.safetensors=0.7 runs/tiny-base-second.safetensors=0.3
	cp runs/tiny-base.csv seganypet/weights/

ablation: $(READY)
	$(BIN)/python -m benchmarks.ablation strategies

networks: $(READY)
	$(BIN)/python -m benchmarks.ablation networks

clean:
	rm -rf .venv out
