{
  description = "Machines that you can ssh into as one fast, failure-proof binary cache for Nix";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      # Those of them that this nixpkgs still has.
      systems = lib.intersectLists lib.systems.flakeExposed [
        "x86_64-linux"
        "aarch64-linux"
        "x86_64-darwin"
        "aarch64-darwin"
      ];
      forAllSystems = make: lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});
    in
    {
      overlays.default = final: _: {
        ssh-substituter = final.callPackage ./nix/package.nix { };
      };

      nixosModules.default = ./nix/module.nix;

      packages = forAllSystems (pkgs: rec {
        ssh-substituter = pkgs.callPackage ./nix/package.nix { };
        default = ssh-substituter;
      });

      apps = forAllSystems (pkgs: {
        default = {
          type = "app";
          program = lib.getExe self.packages.${pkgs.stdenv.hostPlatform.system}.default;
        };
      });

      checks = forAllSystems (pkgs: {
        package = self.packages.${pkgs.stdenv.hostPlatform.system}.default;
      });

      # What tests/run needs, too.
      devShells = forAllSystems (pkgs: {
        default = pkgs.mkShell {
          inputsFrom = [ self.packages.${pkgs.stdenv.hostPlatform.system}.default ];
          packages = with pkgs; [
            bash
            clippy
            fish
            groff
            nix
            openssh
            perl
            rustfmt
            sqlite
            tcsh
            zsh
          ];
        };
      });

      formatter = forAllSystems (pkgs: pkgs.nixfmt);
    };
}
