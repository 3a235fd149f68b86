# NixOS: machines that can be reached by ssh as a binary cache of this one.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  inherit (lib) mkOption types;

  cfg = config.services.ssh-substituter;

  # One word of a file in the syntax of nix.conf.
  word = types.strMatching "[^[:space:]#]+";
  key = types.strMatching "[^[:space:]:#]+:[A-Za-z0-9+/]+=*";

  # As Nix reads them back; a slash may stay.
  encode = text: lib.replaceStrings [ "%2F" ] [ "/" ] (lib.escapeURL text);

  # For the host "localhost" Nix runs the program itself, without ssh.
  parameters = {
    remote-program = "${cfg.package}/bin/ssh-substituter";
  }
  // lib.optionalAttrs cfg.trustInNix { trusted = "true"; }
  // lib.optionalAttrs (cfg.maxConnections != null) { max-connections = toString cfg.maxConnections; }
  // lib.optionalAttrs (cfg.priority != null) { priority = toString cfg.priority; };
  httpUrl =
    let
      own =
        lib.optional cfg.trustInNix "trusted=true"
        ++ lib.optional (cfg.priority != null) "priority=${toString cfg.priority}";
    in
    "http://${cfg.http.listen}" + lib.optionalString (own != [ ]) "?${lib.concatStringsSep "&" own}";
  sshUrl =
    "ssh://localhost?"
    + lib.concatStringsSep "&" (lib.mapAttrsToList (name: value: "${name}=${encode value}") parameters);

  url = if cfg.http.enable then httpUrl else sshUrl;

  own = {
    ssh-substituter-hosts = cfg.hosts;
    trusted-ssh-substituter-hosts = cfg.trustedHosts;
  }
  # Nix checks no signatures then, so that only this program need know the keys.
  // lib.optionalAttrs (cfg.trustInNix && cfg.trustedPublicKeys != [ ]) {
    extra-trusted-public-keys = cfg.trustedPublicKeys;
  }
  // lib.optionalAttrs (cfg.pushHosts != [ ]) { ssh-substituter-push-hosts = cfg.pushHosts; }
  // lib.optionalAttrs (cfg.pushSigningKey != null) { push-signing-key = cfg.pushSigningKey; }
  // lib.optionalAttrs (cfg.engine == "off") { engine = "off"; };

  show =
    value:
    if lib.isBool value then
      lib.boolToString value
    else if lib.isList value then
      lib.concatStringsSep " " value
    else
      toString value;
  lines = lib.mapAttrsToList (name: value: "${name} = ${show value}") (cfg.settings // own);

  daemon = (config.systemd.services.nix-daemon or { }).environment or { };
  isManaged = cfg.engine == "systemd";
  sameAsDaemon = {
    path = [ config.programs.ssh.package ];
    environment = lib.filterAttrs (
      name: _:
      lib.elem name [
        "NIX_SSHOPTS"
        "SSH_AUTH_SOCK"
      ]
    ) daemon;
  };
in
{
  options.services.ssh-substituter = {
    enable = lib.mkEnableOption "machines that can be reached by ssh as a binary cache for Nix";

    package = mkOption {
      type = types.package;
      default = pkgs.callPackage ./package.nix { };
      defaultText = lib.literalMD "the package of this source";
      description = "The package to use.";
    };

    hosts = mkOption {
      type = types.listOf word;
      default = [ ];
      example = [
        "ssh://builder.example.org?ssh-key=/etc/nix/substituter_key"
        "nix@office.example.org"
      ];
      description = ''
        The hosts, in order of preference: `name`, `user@name`, or `ssh://user@name:port?parameter=value&…` with the parameters
        of Nix's ssh stores.

        It is root who logs in, on behalf of the Nix daemon: give it a key without a passphrase, and the hosts' keys in
        {option}`programs.ssh.knownHosts`.
      '';
    };

    trustedHosts = mkOption {
      type = types.listOf word;
      default = [ ];
      description = "Further hosts, not used by themselves, that an unprivileged user may choose.";
    };

    trustedPublicKeys = mkOption {
      type = types.listOf key;
      default = [ ];
      example = [ "builder.example.org-1:vDv4AJ/iK/2Kh2dC78YkgtzDXBFrowopQTmIXVY+rls=" ];
      description = ''
        Keys whose signatures make paths from the hosts acceptable. They are added to {option}`nix.settings.trusted-public-keys`,
        where they count for all substituters; with {option}`services.ssh-substituter.trustInNix` to this program's own
        configuration only.
      '';
    };

    trustInNix = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether Nix takes all that comes through this program without checking signatures once more. A host with `trusted=true`
        in its URL, whose paths need no signature, is of use only with this.
      '';
    };

    maxConnections = mkOption {
      type = types.nullOr types.ints.positive;
      default = null;
      example = 8;
      description = "How many paths Nix fetches through this program at a time; `null` leaves it to Nix, which takes 1.";
    };

    priority = mkOption {
      type = types.nullOr types.ints.unsigned;
      default = null;
      description = "Place among the substituters, smaller ones first; `null` leaves it to Nix, which takes 0.";
    };

    pushHosts = mkOption {
      type = types.listOf word;
      default = [ ];
      example = [ "ssh://nix@cache.example.org?ssh-key=/etc/nix/push_key" ];
      description = ''
        The hosts that {command}`ssh-substituter push` sends to. The account there runs `nix-store --serve --write`
        ({option}`nix.sshServe.write`).
      '';
    };

    pushSigningKey = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "/etc/nix/push.secret";
      description = ''
        File of the secret key that signs what is pushed, as {command}`nix-store --generate-binary-cache-key` makes it. A
        string, so that it does not get into the store.
      '';
    };

    pushBuilds = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether all that is built on this machine is sent to {option}`services.ssh-substituter.pushHosts`, in the background: it
        sets {option}`nix.settings.post-build-hook`.
      '';
    };

    engine = mkOption {
      type = types.enum [
        "auto"
        "systemd"
        "off"
      ];
      default = "auto";
      description = ''
        One engine serves all processes: started by the first of them (`auto`), or on a socket that systemd holds (`systemd`).
        With `off` each process works by itself.
      '';
    };

    http = {
      enable = mkOption {
        type = types.bool;
        default = false;
        description = ''
          Whether Nix asks the hosts through a binary cache over HTTP on this machine, {command}`ssh-substituter http`, instead of
          starting this program itself. The cache runs as a user of its own, whose key for ssh is
          {file}`/var/lib/ssh-substituter-http/id_ed25519.pub`: root needs none.
        '';
      };

      listen = mkOption {
        type = word;
        default = "127.0.0.1:5001";
        description = ''
          Address and port. Whoever reaches an address that is not of loopback gets every path that the hosts have.
        '';
      };

      publicKey = mkOption {
        type = types.nullOr key;
        default = null;
        description = ''
          The key with which the cache signs what it serves, as in {file}`/var/lib/ssh-substituter-http/http.secret.pub`. It is added to
          {option}`nix.settings.trusted-public-keys`.
        '';
      };
    };

    settings = mkOption {
      type = types.attrsOf (
        types.oneOf [
          types.bool
          types.int
          types.str
          (types.listOf types.str)
        ]
      );
      default = { };
      example = {
        connect-timeout = 5;
        readahead-memory = "1G";
      };
      description = "Further lines of {file}`/etc/nix/ssh-substituter.conf`.";
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = cfg.hosts != [ ] || cfg.trustedHosts != [ ] || cfg.pushHosts != [ ];
        message = "services.ssh-substituter: no host is named in hosts, trustedHosts or pushHosts.";
      }
      {
        assertion = cfg.pushBuilds -> cfg.pushHosts != [ ];
        message = "services.ssh-substituter.pushBuilds: no host is named in pushHosts.";
      }
      {
        assertion = lib.intersectLists (lib.attrNames cfg.settings) (lib.attrNames own) == [ ];
        message = "services.ssh-substituter.settings: hosts, keys and engine have options of their own.";
      }
      {
        assertion = lib.all (line: builtins.match "[^\n#]*" line != null) lines;
        message = "services.ssh-substituter.settings: a value holds a line break or a #.";
      }
    ];

    warnings = lib.optional (!cfg.trustInNix && lib.any (lib.hasInfix "trusted=true") cfg.hosts) ''
      services.ssh-substituter: a host says trusted=true, but Nix will check signatures all the same: set trustInNix, or leave
      trusted=true out of the host's URL.
    '';

    environment.systemPackages = [ cfg.package ];
    environment.etc."nix/ssh-substituter.conf".text = lib.concatMapStrings (line: line + "\n") lines;

    nix.settings = {
      substituters = lib.optional (cfg.hosts != [ ] || cfg.trustedHosts != [ ]) url;
      trusted-public-keys =
        lib.optionals (!cfg.trustInNix) cfg.trustedPublicKeys
        ++ lib.optional (cfg.http.enable && cfg.http.publicKey != null) cfg.http.publicKey;
    }
    // lib.optionalAttrs cfg.pushBuilds {
      post-build-hook = "${cfg.package}/libexec/ssh-substituter/post-build-hook";
    };

    systemd = {
      packages = lib.optional (isManaged || cfg.pushBuilds || cfg.http.enable) cfg.package;
      sockets =
        lib.optionalAttrs isManaged { ssh-substituter-engine.wantedBy = [ "sockets.target" ]; }
        // lib.optionalAttrs cfg.http.enable {
          ssh-substituter-http = {
            wantedBy = [ "sockets.target" ];
            # An empty one takes the place of the unit's own.
            listenStreams = [
              ""
              cfg.http.listen
            ];
          };
        };
      # An engine serves those with the same ssh, agent and options as itself.
      services =
        lib.optionalAttrs isManaged { ssh-substituter-engine = sameAsDaemon; }
        // lib.optionalAttrs cfg.pushBuilds { ssh-substituter-push = sameAsDaemon; }
        // lib.optionalAttrs cfg.http.enable {
          ssh-substituter-http.path = [ config.programs.ssh.package ];
        };
      # What is left after a restart of the machine.
      timers = lib.optionalAttrs cfg.pushBuilds {
        ssh-substituter-push.wantedBy = [ "timers.target" ];
      };
    };
  };
}
