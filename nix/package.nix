# The program with its man pages, completions and systemd units: `pkgs.callPackage ./package.nix { }`.
# It needs a nixpkgs whose Rust is at least as new as `rust-version` in Cargo.toml.
{
  lib,
  stdenv,
  rustPlatform,
  installShellFiles,
  makeBinaryWrapper,
  versionCheckHook,
  openssh,
}:

let
  manifest = (lib.importTOML ../Cargo.toml).package;
in
rustPlatform.buildRustPackage {
  pname = manifest.name;
  inherit (manifest) version;

  src = lib.fileset.toSource {
    root = ../.;
    # Benchmarks are not built, but cargo wants to see all that Cargo.toml names.
    fileset = lib.fileset.unions [
      ../Cargo.toml
      ../Cargo.lock
      ../benches
      ../packaging
      ../src
    ];
  };

  cargoLock.lockFile = ../Cargo.lock;

  nativeBuildInputs = [
    installShellFiles
    makeBinaryWrapper
  ];

  # The tests start sshd, other users and Nix itself with stores of their own: a build's sandbox has no place for them.
  doCheck = false;
  doInstallCheck = true;
  nativeInstallCheckInputs = [ versionCheckHook ];

  postInstall = ''
    installManPage packaging/man/*.1
    installShellCompletion \
      --bash packaging/completions/ssh-substituter.bash \
      --fish packaging/completions/ssh-substituter.fish \
      --zsh packaging/completions/_ssh-substituter

    install -D -m 755 -t $out/libexec/ssh-substituter packaging/hooks/post-build-hook
    substituteInPlace $out/libexec/ssh-substituter/post-build-hook \
      --replace-fail "ssh-substituter push" "$out/bin/ssh-substituter push"

    # Last, so that the user's or the daemon's own ssh comes first: it knows their configuration.
    wrapProgram $out/bin/ssh-substituter --suffix PATH : ${lib.makeBinPath [ openssh ]}
  ''
  + lib.optionalString stdenv.hostPlatform.isLinux ''
    for manager in system user; do
      install -D -m 644 -t $out/lib/systemd/$manager packaging/systemd/$manager/ssh-substituter-*.*
      sed -i "s|^ExecStart=.*|ExecStart=$out/bin/ssh-substituter engine|" \
        $out/lib/systemd/$manager/ssh-substituter-engine.service
      sed -i "s|^ExecStart=.*|ExecStart=$out/bin/ssh-substituter push --wait --timeout 3600|" \
        $out/lib/systemd/$manager/ssh-substituter-push.service
    done
    sed -i -e "s,^ExecStart=ssh-substituter ,ExecStart=$out/bin/ssh-substituter ," \
      -e "s,|| ssh-substituter key ,|| $out/bin/ssh-substituter key ," \
      $out/lib/systemd/system/ssh-substituter-http.service
  '';

  meta = {
    inherit (manifest) description;
    license = with lib.licenses; [
      mit
      asl20
    ];
    mainProgram = "ssh-substituter";
    platforms = lib.platforms.unix;
  };
}
