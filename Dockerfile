# docs/docker.md says how to build and run this image.
ARG BASE_IMAGE=debian:bookworm-slim
FROM ${BASE_IMAGE}

# Triton compiles a small launcher in C at run time; RDKit draws with the X libraries.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        ca-certificates gcc libc6-dev libexpat1 libfreetype6 libsm6 libx11-6 libxext6 libxrender1 \
        python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

# Debian's Python is externally managed, so everything lives in a virtual environment.
RUN python3 -m venv /venv
ENV PATH=/venv/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

# Another build of torch, for older drivers: TORCH_INDEX_URL names a package index, and
# TORCH_VERSION with TRITON_VERSION another release. Empty: the versions in constraints.txt.
ARG TORCH_INDEX_URL=
ARG TORCH_VERSION=
ARG TRITON_VERSION=
COPY constraints.txt /venv/
RUN cd /venv \
    && if [ -n "${TORCH_VERSION}" ]; then sed -i "s/^torch==.*/torch==${TORCH_VERSION}/" constraints.txt; fi \
    && if [ -n "${TRITON_VERSION}" ]; then sed -i "s/^triton==.*/triton==${TRITON_VERSION}/" constraints.txt; fi \
    && pip install --quiet --retries 5 ${TORCH_INDEX_URL:+--index-url "${TORCH_INDEX_URL}"} \
        "$(grep '^torch==' constraints.txt)"

# The dependencies come before our own code, so that a change of it does not install them again.
COPY pyproject.toml /venv/
RUN cd /venv \
    && python -c "import tomllib; found = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*found['dependencies'], *found['optional-dependencies']['hpopt'], sep='\n')" > requirements.txt \
    && pip install --quiet --retries 5 --constraint constraints.txt --requirement requirements.txt

COPY . /tmp/source/
RUN pip install --quiet --retries 5 --no-deps /tmp/source \
    && rm -rf /tmp/source

# Any --user may run this image: no such user need exist, and all that is written besides /work
# goes to one folder that everybody may write.
ENV HOME=/cache/home \
    USER=tritonpool \
    LOGNAME=tritonpool \
    XDG_CACHE_HOME=/cache/xdg \
    XDG_CONFIG_HOME=/cache/config \
    MPLCONFIGDIR=/cache/matplotlib \
    TRITON_CACHE_DIR=/cache/triton \
    TORCHINDUCTOR_CACHE_DIR=/cache/inductor \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN mkdir -p /cache/home /cache/xdg /cache/config /cache/matplotlib /cache/triton \
        /cache/inductor /work \
    && chmod -R 1777 /cache /work

VOLUME /work
WORKDIR /work
ENTRYPOINT ["tritonpool"]
CMD ["--help"]
