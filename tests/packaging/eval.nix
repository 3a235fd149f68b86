# Evaluates what nix/ and flake.nix hold, as NixOS and a flake do. `lib` is nixpkgs's.
{
  lib,
  # Folder of a package, with bin/ssh-substituter in it.
  package,
}:

let
  inherit (lib) mkOption types;

  derivation = {
    type = "derivation";
    name = "ssh-substituter";
    outPath = package;
  };

  # What NixOS has, as far as the module touches it.
  machine = {
    options = {
      assertions = mkOption {
        type = types.listOf types.anything;
        default = [ ];
      };
      warnings = mkOption {
        type = types.listOf types.str;
        default = [ ];
      };
      environment.systemPackages = mkOption {
        type = types.listOf types.package;
        default = [ ];
      };
      environment.etc = mkOption {
        type = types.attrsOf types.anything;
        default = { };
      };
      nix.settings.substituters = mkOption { type = types.listOf types.str; };
      nix.settings.post-build-hook = mkOption {
        type = types.nullOr types.str;
        default = null;
      };
      nix.settings.trusted-public-keys = mkOption { type = types.listOf types.str; };
      programs.ssh.package = mkOption {
        type = types.str;
        default = "/openssh";
      };
      systemd.packages = mkOption {
        type = types.listOf types.package;
        default = [ ];
      };
      systemd.sockets = mkOption {
        type = types.attrsOf types.anything;
        default = { };
      };
      systemd.timers = mkOption {
        type = types.attrsOf types.anything;
        default = { };
      };
      systemd.services = mkOption {
        type = types.attrsOf types.anything;
        default = { };
      };
    };
    config = {
      nix.settings.substituters = [ "https://cache.nixos.org/" ];
      nix.settings.trusted-public-keys = [ "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=" ];
      systemd.services.nix-daemon.environment = {
        NIX_SSHOPTS = "-4";
        TMPDIR = "/var/tmp";
      };
    };
  };

  callPackage =
    stdenv: file: arguments:
    let
      make = import file;
      all = {
        inherit lib stdenv;
        rustPlatform.buildRustPackage =
          package:
          package
          // {
            type = "derivation";
            name = package.pname;
            outPath = "/out";
          };
        installShellFiles = "/installShellFiles";
        makeBinaryWrapper = "/makeBinaryWrapper";
        versionCheckHook = "/versionCheckHook";
        openssh = "/openssh";
      };
    in
    make (builtins.intersectAttrs (builtins.functionArgs make) all // arguments);
in
{
  # What a machine has with these settings of services.ssh-substituter (a JSON file).
  machine =
    settings:
    let
      evaluated = lib.evalModules {
        specialArgs.pkgs.callPackage = _: _: derivation;
        modules = [
          ../../nix/module.nix
          machine
          { services.ssh-substituter = builtins.fromJSON (builtins.readFile settings); }
        ];
      };
      inherit (evaluated) config;
    in
    {
      inherit (config) warnings;
      conf = builtins.mapAttrs (_: file: file.text) config.environment.etc;
      inherit (config.nix) settings;
      systemd = config.systemd // {
        packages = map toString config.systemd.packages;
      };
      failed = map (one: one.message) (builtins.filter (one: !one.assertion) config.assertions);
    };

  package =
    let
      made = callPackage { hostPlatform.isLinux = true; } ../../nix/package.nix { };
    in
    {
      inherit (made) pname version postInstall;
      lock = toString made.cargoLock.lockFile;
      inherit (made.meta) description mainProgram;
      src = toString made.src;
    };

  flake =
    let
      systems = lib.systems.flakeExposed ++ [ "x86_64-darwin" ];
      nixpkgs = {
        inherit lib;
        legacyPackages = lib.genAttrs systems (
          system:
          let
            stdenv.hostPlatform = {
              inherit system;
              isLinux = builtins.match ".*-linux" system != null;
            };
          in
          {
            inherit stdenv;
            callPackage = callPackage stdenv;
          }
        );
      };
      self = (import ../../flake.nix).outputs { inherit self nixpkgs; };
    in
    {
      outputs = builtins.attrNames self;
      module = toString self.nixosModules.default;
      packages = builtins.mapAttrs (_: each: each.default.pname) self.packages;
      apps = builtins.mapAttrs (_: each: each.default.program) self.apps;
      checks = builtins.mapAttrs (_: builtins.attrNames) self.checks;
      overlay = (self.overlays.default nixpkgs.legacyPackages.x86_64-linux { }).ssh-substituter.pname;
    };
}
