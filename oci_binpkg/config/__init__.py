"""Where settings come from: our configuration, Spack's, and the environment."""
