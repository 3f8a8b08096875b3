//! The native datapath of nvpn: system calls, one thread, and the binding to Python.
#![deny(missing_docs)]

pub mod sys;

use pyo3::prelude::*;

#[pymodule]
#[pyo3(name = "_native")]
fn native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("VERSION", env!("CARGO_PKG_VERSION"))
}
