"""The commands and their options; each hands over to a module of its own."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

import zlpr
from zlpr.cli.errors import InputError, say

BAD_INPUT = 2
INTERRUPTED = 130

# Typer carries its own copy of Click since 0.2x; this is the base of its usage errors in every version.
_UsageError: Any = typer.BadParameter.__mro__[2]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    help="Multi-label models with ZLPR, entropies, and images from autoencoders, on NumPy, PyTorch, CuPy or JAX.",
)


class Backend(StrEnum):
    """The array library to compute with."""

    numpy = "numpy"
    torch = "torch"
    cupy = "cupy"
    jax = "jax"


class Loss(StrEnum):
    """The training loss."""

    zlpr = "zlpr"
    sigmoid = "sigmoid"


class Solver(StrEnum):
    """How the parameters are found."""

    auto = "auto"
    lbfgs = "lbfgs"
    minibatch = "minibatch"


class Precision(StrEnum):
    """The floating dtype to compute in."""

    float32 = "float32"
    float64 = "float64"


class Adversarial(StrEnum):
    """What the inputs are moved against in training."""

    fgm = "fgm"
    vat = "vat"


class Report(StrEnum):
    """The form of the printed scores."""

    table = "table"
    json = "json"


class Information(StrEnum):
    """How mutual information is estimated."""

    ksg1 = "ksg1"
    ksg2 = "ksg2"
    sum_of_entropies = "3h"


class Units(StrEnum):
    """What a column is measured in."""

    deviation = "deviation"
    rank = "rank"
    none = "none"


class Duplicates(StrEnum):
    """What to do about equal rows."""

    refuse = "raise"
    drop = "drop"
    clamp = "clamp"


class Generative(StrEnum):
    """The generative model."""

    eae = "eae"
    vae = "vae"


class Likelihood(StrEnum):
    """What the variational autoencoder takes a pixel for."""

    gaussian = "gaussian"
    bernoulli = "bernoulli"


Data = Annotated[
    Path, typer.Argument(help="The data: .npz, .csv, .csv.gz, .svm, .libsvm or .arff.", show_default=False)
]
Labels = Annotated[
    str | None,
    typer.Option(
        help="Label columns: names with commas between, or N for the last N columns (.npz and .arff know)."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        print(f"zlpr {zlpr.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit


@app.command()
def fit(
    data: Data,
    labels: Labels = None,
    out: Annotated[Path, typer.Option(help="The model file to write.")] = Path("model.safetensors"),
    backend: Annotated[Backend, typer.Option(help="The array library to train on.")] = Backend.numpy,
    hidden: Annotated[str, typer.Option(help="Hidden layers, e.g. 100,50; empty for a linear model.")] = "",
    loss: Annotated[Loss, typer.Option(help="The training loss.")] = Loss.zlpr,
    solver: Annotated[
        Solver, typer.Option(help="auto: L-BFGS for a linear model, minibatches for hidden layers.")
    ] = Solver.auto,
    epochs: Annotated[int | None, typer.Option(min=1, help="Most epochs, or L-BFGS iterations.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows in a minibatch.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the minibatch optimizer.")] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            help="L2 penalty: mean loss + alpha/2 * sum of squared weights; by default 3/rows with L-BFGS, else 0.",
        ),
    ] = None,
    noise: Annotated[
        float | None, typer.Option(help="Standard deviation of noise on the standardised features.")
    ] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="Move targets this far towards 1/2.")] = None,
    gradient_penalty: Annotated[
        float | None, typer.Option(help="Weight of half the squared slope of the loss in the features.")
    ] = None,
    adversarial: Annotated[
        Adversarial | None,
        typer.Option(
            help="fgm: also fit features moved against their labels. vat: keep the prediction where it changes most; "
            "takes rows without labels, of nan or -1 throughout."
        ),
    ] = None,
    adversarial_epsilon: Annotated[
        float | None, typer.Option(help="Length of that move of a row; 0.5 by default.")
    ] = None,
    adversarial_weight: Annotated[
        float | None, typer.Option(help="Weight of that beside the loss; 1 by default.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of initial weights, batches and split.")] = 0,
    dtype: Annotated[Precision, typer.Option(help="The precision to train in.")] = Precision.float64,
    test_size: Annotated[
        float | None,
        typer.Option(
            help="Hold this share of the rows out at random; by default the file's own split, if any."
        ),
    ] = None,
    report: Annotated[Report, typer.Option(help="How to print the scores.")] = Report.table,
    quiet: Quiet = False,
) -> int:
    """Train a multi-label classifier on DATA and write it to a model file.

    Features are standardised. Ctrl-C keeps what was learnt so far: the model is written and the exit code is 130.
    """
    from zlpr.cli.fit import FitOptions, fit_model, hidden_sizes

    interrupted = fit_model(
        FitOptions(
            data=data,
            labels=labels,
            out=out,
            backend=backend.value,
            hidden=hidden_sizes(hidden),
            loss=loss.value,
            solver=solver.value,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            alpha=alpha,
            noise=noise,
            label_smoothing=label_smoothing,
            gradient_penalty=gradient_penalty,
            adversarial=adversarial and adversarial.value,
            adversarial_epsilon=adversarial_epsilon,
            adversarial_weight=adversarial_weight,
            seed=seed,
            dtype=dtype.value,
            test_size=test_size,
            report=report.value,
            quiet=quiet,
        )
    )
    return INTERRUPTED if interrupted else 0


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="A model file of zlpr fit.", show_default=False)],
    data: Data,
    out: Annotated[Path, typer.Option(help="The file to write: .csv or .npz.")] = Path("predictions.csv"),
    scores: Annotated[bool, typer.Option("--scores", help="Write the scores beside the labels.")] = False,
    backend: Annotated[Backend, typer.Option(help="The array library to compute with.")] = Backend.numpy,
) -> int:
    """Predict the labels of DATA with a model file.

    DATA needs no labels; where it has the model's labels, its scores are printed. Features with names are matched
    by name.
    """
    from zlpr.cli.predict import predict_file

    predict_file(model, data, out, scores, backend.value)
    return 0


@app.command()
def demo(
    backend: Annotated[
        list[Backend] | None, typer.Option(help="Repeatable; by default every installed library.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder for the pictures.")] = Path("zlpr-demo"),
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training pictures.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Seed of pictures, weights and batches.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer pictures and at most 10 epochs.")] = False,
    quiet: Quiet = False,
) -> int:
    """Train one network on every installed library, with the same result on each.

    The task needs no download: each picture holds 0 to 4 real handwritten digits, and which digits occur is its
    label set.
    """
    from zlpr.cli.demo import run_demo

    run_demo(
        backends=[choice.value for choice in backend] if backend else None,
        folder=out,
        epochs=min(epochs, 10) if quick else epochs,
        seed=seed,
        quick=quick,
        quiet=quiet,
    )
    return 0


@app.command()
def entropy(
    data: Annotated[
        Path,
        typer.Argument(
            help="Columns of numbers: .npy, .npz, .csv, .csv.gz or .arff; a row is a sample.",
            show_default=False,
        ),
    ],
    pairs: Annotated[
        bool, typer.Option("--pairs", help="The mutual information of every two columns, and its picture.")
    ] = False,
    columns: Annotated[str | None, typer.Option(help="Names with commas between; all by default.")] = None,
    array: Annotated[str | None, typer.Option(help="The array of an .npz file; X by default.")] = None,
    k: Annotated[
        int, typer.Option("--neighbors", "-k", min=1, help="Which neighbour the distance is to.")
    ] = 3,
    estimator: Annotated[
        Information, typer.Option(help="Of --pairs: Kraskov's two counts, or the sum of three entropies.")
    ] = Information.ksg1,
    standardize: Annotated[
        Units, typer.Option(help="Of --pairs: the unit of each column; ranks for any monotone scale.")
    ] = Units.deviation,
    permutations: Annotated[
        int, typer.Option(min=0, help="Of --pairs: permutations of each pair for a p-value.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the permutations.")] = 0,
    duplicates: Annotated[
        Duplicates, typer.Option(help="Where neighbours are at distance 0: raise, drop or clamp.")
    ] = Duplicates.refuse,
    base: Annotated[float | None, typer.Option(help="Unit: 2 for bits; nats by default.")] = None,
    memory: Annotated[
        int | None, typer.Option(min=1, help="Most MiB of distances to hold at a time.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The picture that --pairs writes.")] = Path(
        "mutual-information.png"
    ),
    backend: Annotated[Backend, typer.Option(help="The array library to compute with.")] = Backend.numpy,
    report: Annotated[Report, typer.Option(help="How to print the result.")] = Report.table,
    quiet: Quiet = False,
) -> int:
    """Estimate the entropy of the columns of DATA, or with --pairs what every two columns tell about each other.

    The entropy is that of all columns together, by distances to nearest neighbours, with its standard error.
    """
    from zlpr.cli.entropy import EntropyOptions, measure_file

    measure_file(
        EntropyOptions(
            data=data,
            pairs=pairs,
            columns=columns,
            array=array,
            k=k,
            estimator=estimator.value,
            standardize=standardize.value,
            permutations=permutations,
            seed=seed,
            duplicates=duplicates.value,
            base=base,
            memory=memory,
            out=out,
            backend=backend.value,
            report=report.value,
            quiet=quiet,
        )
    )
    return 0


@app.command()
def generate(
    model: Annotated[
        Generative | None,
        typer.Option(help="eae: entropic autoencoder, the default; vae: variational autoencoder."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="digits (scikit-learn's; the default), or a .npz file of grey images or rows of pixels."
        ),
    ] = None,
    load: Annotated[
        Path | None, typer.Option(help="A model file of zlpr generate, in place of training.")
    ] = None,
    output_dir: Annotated[
        Path, typer.Option("--output-dir", "--out", help="The folder for pictures, samples and the model.")
    ] = Path("zlpr-generate"),
    array: Annotated[
        str | None, typer.Option(help="The array of a .npz file; by default X, images or the only one.")
    ] = None,
    shape: Annotated[
        str | None, typer.Option(help="HEIGHTxWIDTH of rows of pixels; square by default.")
    ] = None,
    latent_dim: Annotated[int | None, typer.Option(min=1, help="Numbers in a code; 8 by default.")] = None,
    hidden: Annotated[
        str | None, typer.Option(help="Hidden layers of the encoder, e.g. 500; 256,128 by default.")
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option("--epochs", "--max-iter", min=1, help="Passes over the images; 100 by default."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images in a minibatch; 100 by default.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of Adam; 0.003 by default.")] = None,
    entropy_weight: Annotated[
        float | None,
        typer.Option(help="Of the entropy of the codes (eae); more: better samples, worse reconstructions."),
    ] = None,
    kl_weight: Annotated[
        float | None, typer.Option(help="Of the divergence of the codes (vae), alike.")
    ] = None,
    likelihood: Annotated[
        Likelihood | None, typer.Option(help="Of a pixel (vae); gaussian with a learned variance by default.")
    ] = None,
    dtype: Annotated[
        Precision | None, typer.Option(help="The precision to train in; float32 by default.")
    ] = None,
    test_size: Annotated[
        float | None,
        typer.Option(
            help="Hold this share of the images out; by default the file's own split, else a tenth."
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="How many images to generate.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights, batches, split and samples.")] = 0,
    backend: Annotated[Backend, typer.Option(help="The array library to compute with.")] = Backend.numpy,
    quiet: Quiet = False,
) -> int:
    """Train an autoencoder that generates images, or take a trained one, and draw what it makes.

    Writes PNG grids of samples, reconstructions and interpolations, samples.npz in the data's units, and the model.

    --load takes that model. Ctrl-C keeps what was learnt so far: everything is written and the exit code is 130.
    """
    from zlpr.cli.generate import GenerateOptions, generate_images

    interrupted = generate_images(
        GenerateOptions(
            model=None if model is None else model.value,
            data=data,
            load=load,
            output_dir=output_dir,
            array=array,
            shape=shape,
            latent_dim=latent_dim,
            hidden=hidden,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            entropy_weight=entropy_weight,
            kl_weight=kl_weight,
            likelihood=None if likelihood is None else likelihood.value,
            dtype=None if dtype is None else dtype.value,
            test_size=test_size,
            samples=samples,
            seed=seed,
            backend=backend.value,
            quiet=quiet,
        )
    )
    return INTERRUPTED if interrupted else 0


def run(arguments: Sequence[str]) -> int:
    """Run one command; whatever the user can correct becomes one line on stderr and exit code 2."""
    command = typer.main.get_command(app)
    try:
        with command.make_context("zlpr", list(arguments)) as context:
            return int(command.invoke(context) or 0)
    except typer.Exit as stop:
        return stop.exit_code
    except InputError as error:
        say(str(error))
        return BAD_INPUT
    except _UsageError as error:
        say(f"{error.format_message()} (zlpr --help lists commands and options)")
        return BAD_INPUT
    except MemoryError as error:
        say(f"not enough memory ({error})")
        return BAD_INPUT
    except KeyboardInterrupt:
        say("stopped; no file is half written", kind="interrupted")
        return INTERRUPTED
